"""The chunked language-model head and the losses on it against Liger's fused ones.

What does not run here: Liger's Triton kernels (`LigerFusedLinearCrossEntropyLoss`, its GRPO kernel)
need a GPU and Triton. Its chunked losses are plain torch and the same mathematics: the head in
chunks, never the whole logits, and the policy loss on top. They compute in float32, as ours does;
torch's own cross-entropy is compared with in float64 (`engine/test_token_logprobs`).
"""

import importlib
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn.functional import cross_entropy

from padded_batches import LIMIT, PaddedBatch, assert_same, batches, our_loss, padded_batch
from prism_api.algorithms import PolicyObjective
from prism_trainer.engine import head
from prism_trainer.engine.head import token_logprobs
from prism_trainer.losses.policy import kl_penalty, policy_loss, token_weights

pytestmark = pytest.mark.references

WIDTH, VOCABULARY = 24, 50


@pytest.fixture(scope="module")
def liger() -> Any:
    """Liger's policy losses; a failure, not a skip, where it is not installed."""
    return importlib.import_module("liger_kernel.chunked_loss.grpo_loss")


OBJECTIVES: dict[str, tuple[PolicyObjective, dict[str, Any]]] = {
    "grpo": (PolicyObjective("token", "token", 0.2, 0.2), {"loss_type": "bnpo"}),
    "dapo": (
        PolicyObjective("token", "token", 0.2, 0.28),
        {"loss_type": "dapo", "epsilon_high": 0.28},
    ),
    "gspo": (
        PolicyObjective("sequence", "sequence", 3e-4, 4e-4),
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 3e-4,
            "epsilon_high": 4e-4,
        },
    ),
    "dr-grpo": (
        PolicyObjective("token", "length_limit", 0.2, 0.2),
        {"loss_type": "dr_grpo", "max_completion_length": LIMIT},
    ),
    "cispo": (
        PolicyObjective("token", "token", 1.0, 4.0, surrogate="cispo"),
        {"loss_type": "cispo", "epsilon_high": 5.0},
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@given(batch=batches())
def test_losses_are_ligers_in_float64(liger: Any, name: str, batch: PaddedBatch) -> None:
    objective, settings = OBJECTIVES[name]
    loss, _ = liger.LigerFusedLinearGRPOFunction.ppo_loss_fn(
        batch.logprobs,
        batch.mask,
        batch.advantages,
        batch.mask,
        old_per_token_logps=batch.old,
        beta=0.0,
        **settings,
    )
    (gradient,) = torch.autograd.grad(loss, batch.logprobs)
    assert_same(our_loss(batch, objective), (loss.detach(), gradient))


@pytest.fixture(params=[1, 4, 1000], ids="{}_rows_a_chunk".format)
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_CHUNK_ELEMENTS", request.param * VOCABULARY)


def model() -> tuple[Tensor, Tensor]:
    """Hidden states [responses, tokens, width] and the head's weight."""
    torch.manual_seed(0)
    hidden = torch.randn(4, 7, WIDTH, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    return hidden, weight


BATCH = padded_batch(4, [7, 1, 4, 6], spread=0.5)
TARGETS = torch.randint(0, VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(3))
TEMPERATURE, COEFFICIENT = 0.7, 0.1


def logprobs_of_the_model() -> Tensor:
    hidden, weight = model()
    logits = hidden.detach() @ weight.detach().T / TEMPERATURE
    return logits.log_softmax(-1).gather(-1, TARGETS[..., None]).squeeze(-1)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_head_loss_and_penalty_together_have_the_gradients_of_ligers_fused_ones(
    liger: Any, name: str
) -> None:
    """From hidden states to a loss with ratios, clips, rollout weights and k3, and back."""
    objective, settings = OBJECTIVES[name]
    near = logprobs_of_the_model()
    noise = [(part - BATCH.old).detach().float() for part in (BATCH.logprobs, BATCH.reference)]
    old, reference = near + 0.2 * noise[0], near + 0.2 * noise[1]
    # One weight per response: with one per token, Liger's GSPO is TRL's, see there.
    weights = torch.tensor([[0.5], [1.0], [1.7], [0.0]])

    hidden, weight = model()
    fused = liger.LigerFusedLinearGRPOLoss(
        beta=COEFFICIENT, compiled=False, temperature=TEMPERATURE, chunk_size=2, **settings
    )
    theirs, _ = fused(
        hidden,
        weight,
        TARGETS,
        BATCH.mask,
        BATCH.advantages.float(),
        ref_per_token_logps=reference,
        old_per_token_logps=old,
        vllm_is_ratio=weights,
    )
    theirs.backward()

    my_hidden, my_weight = model()
    counted = BATCH.mask.bool()
    logprobs, _ = token_logprobs(my_hidden[counted], my_weight, TARGETS[counted], TEMPERATURE)
    inputs = BATCH.inputs(
        logprobs=logprobs,
        old_logprobs=old[counted],
        advantages=BATCH.advantages.float(),
        correction=weights.expand(-1, 7)[counted],
    )
    penalty = kl_penalty(logprobs, reference[counted]) * token_weights(inputs, objective)
    ours = policy_loss(inputs, objective).loss + COEFFICIENT * penalty.sum()
    ours.backward()

    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for mine, reference_tensor in ((my_hidden, hidden), (my_weight, weight)):
        assert mine.grad is not None
        assert reference_tensor.grad is not None
        assert reference_tensor.grad.abs().max() > 1e-3
        torch.testing.assert_close(mine.grad, reference_tensor.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("_chunk")
def test_log_probabilities_and_gradients_are_those_of_ligers_chunked_head_and_of_cross_entropy(
    liger: Any,
) -> None:
    """Liger streams over the vocabulary, ours over rows; torch holds all logits, in float64."""
    ppo = importlib.import_module("liger_kernel.chunked_loss.fused_linear_ppo")
    factors = torch.randn(28, generator=torch.Generator().manual_seed(1))
    found = []
    for kind in ("ours", "liger", "torch"):
        hidden, weight = model()
        flat, targets = hidden.flatten(0, 1), TARGETS.flatten()
        if kind == "ours":
            logprobs, _ = token_logprobs(flat, weight, targets, TEMPERATURE)
        elif kind == "liger":
            apply = ppo._ChunkedSelectiveLogProbFunction.apply
            logprobs = apply(flat, weight, targets, None, TEMPERATURE, 16)
        else:
            logits = flat.double() @ weight.double().T / TEMPERATURE
            logprobs = -cross_entropy(logits, targets, reduction="none")
        (logprobs * factors).sum().backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        found.append([logprobs.detach().float(), hidden.grad, weight.grad])
    ours, *others = found
    for theirs in others:
        for mine, reference in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)
