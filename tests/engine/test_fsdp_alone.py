"""FSDP2 in a single process: the same numbers, or the same within half precision."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cosine_similarity

from discriminator_builders import build_comparisons, build_discriminator
from losses_by_split import context_of
from model_builders import build_groups, build_model, build_policy
from prism_api import stages
from prism_api.optimization import Optimization
from prism_trainer.distributed import Ranks
from prism_trainer.engine.fsdp import FullySharded
from prism_trainer.engine.lora import add_adapters
from prism_trainer.engine.policy import Network, StepReport
from prism_trainer.engine.sharding import checkpoint_layers
from prism_trainer.stages.sft import supervised_update

SETTINGS = Optimization(learning_rate=1e-3, grad_clip=0.0)


@pytest.fixture(autouse=True)
def _leave_the_group() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def supervised_step(half: bool | None) -> tuple[StepReport, dict[str, Tensor]]:
    """One step; half precision none: without FSDP."""
    policy = build_policy(build_model(), 60)
    if half is not None:
        policy.sharding = FullySharded(policy.model, half, Ranks())
    policy.start_training(SETTINGS, 1)
    report, _ = supervised_update(context_of(policy), build_groups(), 0)
    return report, first_moments(policy)


def adversarial_step(half: bool | None) -> tuple[StepReport, dict[str, Tensor]]:
    settings = stages.Discriminator(load_balance_coef=0.1)
    network = build_discriminator(build_model(), settings, 120)
    if half is not None:
        network.sharding = FullySharded(network.model, half, Ranks())
    network.start_training(SETTINGS, 1)
    batch = build_comparisons()
    report = network.train_on(batch, network.score(batch), 0)
    return report, first_moments(network)


def adapted_step(recompute: bool, sharded: bool) -> tuple[StepReport, dict[str, Tensor]]:
    """One step of adapters with dropout."""
    model = build_model()
    model.model.visual.requires_grad_(False)
    add_adapters(model, stages.Lora(rank=4, dropout=0.3), seed=3)
    policy = build_policy(model, 60)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if name.endswith("lora_b"):
                parameter.copy_(0.1 * torch.ones_like(parameter).cumsum(0).sin())
    if recompute:
        checkpoint_layers(policy.model)
    if sharded:
        policy.sharding = FullySharded(policy.model, False, Ranks())
    policy.start_training(SETTINGS, 1)
    report, _ = supervised_update(context_of(policy), build_groups(), 0)
    return report, first_moments(policy)


def first_moments(network: Network) -> dict[str, Tensor]:
    """A tenth of the gradients."""
    assert network.optimizer is not None
    state = network.optimizer.state()
    return {name: s.read() for name, s in state.items() if name.endswith(".exp_avg")}


STEPS = {"policy": supervised_step, "discriminator": adversarial_step}


@pytest.mark.parametrize("kind", STEPS)
def test_alone_in_full_precision_nothing_changes(kind: str) -> None:
    ours, gradients = STEPS[kind](False)
    theirs, expected = STEPS[kind](None)
    assert ours.loss == theirs.loss
    assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_adapters_drop_the_same_under_recomputation_and_fsdp(
    recompute: bool, sharded: bool
) -> None:
    ours, gradients = adapted_step(recompute, sharded)
    theirs, expected = adapted_step(False, False)
    assert ours.loss == theirs.loss
    assert gradients.keys() == expected.keys() != set()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("kind", STEPS)
def test_half_precision_computes_in_bfloat16_and_keeps_float32_masters(kind: str) -> None:
    ours, gradients = STEPS[kind](True)
    theirs, expected = STEPS[kind](None)
    assert ours.loss != theirs.loss
    assert ours.loss == pytest.approx(theirs.loss, rel=0.02)
    assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=0.05)
    whole, reference = (torch.cat([g.flatten() for g in x.values()]) for x in (gradients, expected))
    assert whole.dtype == torch.float32
    assert float(cosine_similarity(whole, reference, dim=0)) > 0.99


def test_the_masters_are_float32_and_the_scores_too() -> None:
    network = build_discriminator(build_model(), stages.Discriminator(), 120)
    network.sharding = FullySharded(network.model, True, Ranks())
    scored = network.score(build_comparisons())
    assert {source.dtype for source in network.weights().values()} == {torch.float32}
    scores = torch.cat([s.students for s in scored.scores])
    assert scores.dtype == torch.float32
    # Rounded to bfloat16, they would be the same again.
    assert not torch.equal(scores, scores.bfloat16().float())
