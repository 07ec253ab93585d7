"""Network.update: one step on many packs, or none at all."""

import pytest
import torch
from torch import Tensor

from model_builders import build_groups, build_model, build_policy
from prism_api.errors import NonFiniteLoss
from prism_api.optimization import Optimization
from prism_trainer.engine.packing import Pack
from prism_trainer.engine.policy import Policy


@pytest.fixture
def policy() -> Policy:
    policy = build_policy(build_model(), max_tokens=40)
    settings = Optimization(learning_rate=1e-2, grad_clip=0.0)
    policy.start_training(settings, 10)
    return policy


def test_the_report_says_loss_tokens_norm_and_rate(policy: Policy) -> None:
    packs = policy.packs(build_groups())
    assert len(packs) > 2
    losses = [-float(logprobs.sum()) for logprobs in policy.detached_logprobs(packs)]
    report = policy.update(packs, lambda _, pack: -policy.logprobs(pack)[0].sum(), 0)
    assert report.loss == pytest.approx(sum(losses), rel=1e-6)
    assert report.num_tokens == sum(pack.num_tokens for pack in packs)
    norms = torch.stack([p.grad.norm() for p in policy.model.parameters() if p.grad is not None])
    assert report.grad_norm == pytest.approx(float(norms.norm()), rel=1e-5)
    assert report.learning_rate == 1e-2


def test_steps_lower_the_loss(policy: Policy) -> None:
    packs = policy.packs(build_groups())
    count = sum(len(pack.targets) for pack in packs)
    losses = [
        policy.update(packs, lambda _, pack: -policy.logprobs(pack)[0].sum() / count, step).loss
        for step in range(4)
    ]
    assert losses[-1] < losses[0] - 0.5


def test_a_pack_whose_loss_is_not_finite_leaves_all_weights_as_they_were(policy: Policy) -> None:
    packs = policy.packs(build_groups())
    before = [p.detach().clone() for p in policy.model.parameters()]

    def loss_of(i: int, pack: Pack) -> Tensor:
        loss = -policy.logprobs(pack)[0].sum()
        return loss * (float("nan") if i == 1 else 1.0)

    with pytest.raises(NonFiniteLoss, match="step 4"):
        policy.update(packs, loss_of, 4)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))
    report = policy.update(packs, lambda _, pack: -policy.logprobs(pack)[0].sum(), 5)
    assert report.grad_norm > 0, "the bad gradients are forgotten"


def test_a_batch_without_packs_is_a_step_without_gradient(policy: Policy) -> None:
    report = policy.update([], lambda _, __: torch.zeros(()), 0)
    assert (report.loss, report.grad_norm, report.num_tokens) == (0.0, 0.0, 0)
