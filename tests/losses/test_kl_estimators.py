"""k1, k2 and k3: estimators of the divergence from the initial policy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prism_api.reinforcement import KlEstimator
from prism_trainer.losses.policy import kl_penalty


@given(st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), min_size=1, max_size=6))
def test_the_kl_penalty_is_k3_and_never_negative(pairs: list[tuple[float, float]]) -> None:
    ours, reference = torch.tensor(pairs, dtype=torch.float64).T
    penalty = kl_penalty(ours, reference)
    log_ratios = [max(-20.0, min(20.0, r - p)) for p, r in pairs]
    expected = [min(10.0, math.expm1(x) - x) for x in log_ratios]
    assert penalty.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert (penalty > -1e-12).all()


@given(st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), min_size=1, max_size=6))
def test_k1_and_k2_are_the_log_ratio_and_half_its_square(pairs: list[tuple[float, float]]) -> None:
    ours, reference = torch.tensor(pairs, dtype=torch.float64).T
    k1, k2 = kl_penalty(ours, reference, "k1"), kl_penalty(ours, reference, "k2")
    assert k1.tolist() == pytest.approx([p - r for p, r in pairs], abs=1e-12)
    assert k2.tolist() == pytest.approx([(p - r) ** 2 / 2 for p, r in pairs], abs=1e-12)


def test_a_k3_beyond_ten_is_ten_and_has_no_gradient() -> None:
    """As in verl; TRL's has no limit."""
    logprobs = torch.tensor([-30.0, -2.0, -0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.0, -1.0, -30.0], dtype=torch.float64)
    penalty = kl_penalty(logprobs, reference)
    penalty.sum().backward()
    assert penalty.tolist() == pytest.approx([10.0, math.e - 2, 10.0])
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, 1 - math.e, 0.0])


def test_the_kl_penalty_and_its_gradient_are_zero_at_equality() -> None:
    logprobs = torch.tensor([-0.5, -3.0], requires_grad=True)
    penalty = kl_penalty(logprobs, logprobs.detach())
    penalty.sum().backward()
    assert penalty.tolist() == [0.0, 0.0]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, 0.0]


P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_average_to_the_divergence(estimator: KlEstimator) -> None:
    """Unbiased under the policy: the mean over its distribution is the KL itself."""
    mean = (P * kl_penalty(P.log(), Q.log(), estimator)).sum()
    assert mean.item() == pytest.approx(float((P * (P / Q).log()).sum()))


def mean_gradient(estimator: KlEstimator) -> Tensor:
    """Of the estimate, over samples of a policy with these logits."""
    logits = P.log().requires_grad_()
    logprobs = logits.log_softmax(0)
    (P * kl_penalty(logprobs, Q.log(), estimator)).sum().backward()
    assert logits.grad is not None
    return logits.grad


def test_the_gradient_of_k2_is_that_of_the_divergence_and_k1_has_none() -> None:
    logits = P.log().requires_grad_()
    logprobs = logits.log_softmax(0)
    (logprobs.exp() * (logprobs - Q.log())).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(mean_gradient("k2"), logits.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(mean_gradient("k1"), torch.zeros_like(P), rtol=0, atol=1e-12)
    # k3 pulls back too, by the gradient of KL(initial, policy).
    torch.testing.assert_close(mean_gradient("k3"), P - Q, rtol=0, atol=1e-12)
