"""The chunked language-model head against torch's cross-entropy and entropy."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from prism_trainer.engine import head
from prism_trainer.engine.head import token_logprobs

WIDTH, VOCABULARY, TARGETS = 24, 50, 23


@pytest.fixture(params=[1, 4, TARGETS - 1, TARGETS, 1000], ids="{}_rows_a_chunk".format)
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_CHUNK_ELEMENTS", request.param * VOCABULARY + VOCABULARY // 2)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(TARGETS, WIDTH, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    return hidden, weight, torch.randint(0, VOCABULARY, (TARGETS,))


def reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits = hidden.double() @ weight.double().T / temperature
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    return -cross_entropy(logits, targets, reduction="none"), entropy


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
def test_values_equal_cross_entropy_and_entropy(temperature: float) -> None:
    hidden, weight, targets = inputs()
    for ours, theirs in zip(
        token_logprobs(hidden, weight, targets, temperature),
        reference(hidden, weight, targets, temperature),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("parts", [(1.0, 0.0), (0.0, 1.0), (1.0, -0.7)], ids=str)
def test_gradients_equal_those_of_cross_entropy_and_entropy(
    temperature: float, parts: tuple[float, float]
) -> None:
    weights = torch.randn(2, TARGETS, generator=torch.Generator().manual_seed(1))

    def gradients(kind: str) -> list[Tensor]:
        hidden, weight, targets = inputs()
        compute = token_logprobs if kind == "ours" else reference
        logprobs, entropy = compute(hidden, weight, targets, temperature)
        loss = parts[0] * (weights[0] * logprobs).sum() + parts[1] * (weights[1] * entropy).sum()
        loss.backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        return [hidden.grad, weight.grad]

    for ours, theirs in zip(gradients("ours"), gradients("theirs"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_without_targets_values_are_empty_and_gradients_zero() -> None:
    hidden = torch.randn(0, WIDTH, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    logprobs, entropy = token_logprobs(hidden, weight, torch.empty(0, dtype=torch.long))
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert weight.grad is None or not weight.grad.any()


def test_huge_logits_stay_finite() -> None:
    hidden = torch.full((2, WIDTH), 1e3, requires_grad=True)
    weight = torch.linspace(-1, 1, VOCABULARY)[:, None].repeat(1, WIDTH).requires_grad_()
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([0, VOCABULARY - 1]))
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.tolist() == pytest.approx([-2 * 1e3 * WIDTH, 0.0], rel=1e-5)
    assert entropy.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_a_frozen_head_costs_no_gradient_of_its_weight() -> None:
    """Logits and the gradient of the hidden states are left: two products of three."""

    def backward(is_frozen: bool) -> tuple[Tensor | None, Tensor | None, int]:
        hidden, weight, targets = inputs()
        weight.requires_grad_(not is_frozen)
        logprobs, _ = token_logprobs(hidden, weight, targets)
        with FlopCounterMode(display=False) as counter:
            logprobs.sum().backward()
        return hidden.grad, weight.grad, counter.get_total_flops()

    expected, _, flops = backward(is_frozen=False)
    found, nothing, fewer = backward(is_frozen=True)
    assert nothing is None
    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)
    assert fewer == flops * 2 / 3 > 0
