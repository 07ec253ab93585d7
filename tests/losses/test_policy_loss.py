"""The clipped surrogates with hand-computed numbers, and the laws that tie them together.

`transcribed_loss` is a second, scalar version straight from prism-method.md 6.2, for Dr.GRPO and
CISPO from their papers.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prism_api.algorithms import ALGORITHM_ROWS, PolicyObjective
from prism_api.reinforcement import Algorithm, KlEstimator
from prism_api.resources import DataSource
from prism_api.stages import RlvrStage
from prism_trainer.losses.policy import (
    ON_POLICY,
    PolicyLossInputs,
    PolicyLossOutputs,
    kl_penalty,
    objective_of,
    policy_loss,
)

GRPO = PolicyObjective("token", "token", 0.2, 0.2, 3.0)
DAPO = PolicyObjective("token", "token", 0.2, 0.28, 10.0)
GSPO = PolicyObjective("sequence", "sequence", 3e-4, 4e-4, 0.0)
DR_GRPO = PolicyObjective("token", "length_limit", 0.2, 0.2, 0.0)
CISPO = PolicyObjective("token", "token", 1.0, 4.0, 0.0, "cispo")
OBJECTIVES = {"grpo": GRPO, "dapo": DAPO, "gspo": GSPO, "dr-grpo": DR_GRPO, "cispo": CISPO}
LIMIT = 7
"""Tokens that a response may have."""


def inputs_of(
    log_ratios: Sequence[Sequence[float]],
    advantages: Sequence[float],
    total_tokens: float | None = None,
    total_responses: float | None = None,
    correction: Sequence[float] | None = None,
) -> PolicyLossInputs:
    """Responses with the given log-ratios per token, whose log-probabilities have gradients."""
    lengths = [len(response) for response in log_ratios]
    flat = torch.tensor([x for r in log_ratios for x in r], dtype=torch.float64)
    # Those of a response do not depend on the batch that it is in.
    old = torch.cat([torch.linspace(-3, -0.5, n, dtype=torch.float64) for n in lengths])
    return PolicyLossInputs(
        logprobs=(old + flat).requires_grad_(),
        old_logprobs=old,
        advantages=torch.tensor(advantages, dtype=torch.float64),
        response_index=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        response_lengths=torch.tensor(lengths),
        total_tokens=total_tokens or float(sum(lengths)),
        total_responses=total_responses or float(len(lengths)),
        max_response_tokens=LIMIT,
        correction=None if correction is None else torch.tensor(correction, dtype=torch.float64),
    )


def gradient_of(inputs: PolicyLossInputs, objective: PolicyObjective) -> Tensor:
    (gradient,) = torch.autograd.grad(policy_loss(inputs, objective).loss, inputs.logprobs)
    return gradient


def loss_of(inputs: PolicyLossInputs, objective: PolicyObjective) -> float:
    return policy_loss(inputs, objective).loss.item()


def transcribed_loss(
    log_ratios: Sequence[Sequence[float]], advantages: Sequence[float], algorithm: str
) -> float:
    low, high, c = {
        "grpo": (0.2, 0.2, 3.0),
        "dapo": (0.2, 0.28, 10.0),
        "gspo": (3e-4, 4e-4, 0.0),
        "dr-grpo": (0.2, 0.2, 0.0),
        "cispo": (math.inf, 4.0, 0.0),
    }[algorithm]
    logprobs = iter(inputs_of(log_ratios, advantages).logprobs.tolist())
    rows = []
    for response, a in zip(log_ratios, advantages, strict=True):
        row = []
        for x, log_p in zip(response, logprobs, strict=False):
            if algorithm == "gspo":
                rho = math.exp(min(sum(response) / len(response), 10.0))
            else:
                rho = math.exp(max(-20.0, min(20.0, x)))
            clipped = max(1 - low, min(1 + high, rho))
            value = -a * clipped * log_p if algorithm == "cispo" else max(-a * rho, -a * clipped)
            row.append(min(value, -a * c) if c and a < 0 else value)
        rows.append(row)
    if algorithm == "gspo":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    if algorithm == "dr-grpo":
        return sum(map(sum, rows)) / (LIMIT * len(rows))
    return sum(map(sum, rows)) / sum(map(len, rows))


LOG_RATIO = st.one_of(st.floats(-1, 1), st.floats(-30, 30))
BATCH = st.lists(
    st.tuples(st.lists(LOG_RATIO, min_size=1, max_size=5), st.floats(-3, 3)), min_size=1, max_size=4
)


@pytest.mark.parametrize("algorithm", list(OBJECTIVES))
@given(batch=BATCH)
def test_losses_equal_a_scalar_transcription(
    algorithm: str, batch: list[tuple[list[float], float]]
) -> None:
    log_ratios, advantages = [r for r, _ in batch], [a for _, a in batch]
    ours = loss_of(inputs_of(log_ratios, advantages), OBJECTIVES[algorithm])
    expected = transcribed_loss(log_ratios, advantages, algorithm)
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),
        (0.5, 2.0, -1.0, -1.0),
        (1.5, -2.0, 3.0, 3.0),
        (0.5, -2.0, 1.6, 0.0),
        (2.9, -2.0, 5.8, 5.8),
        (4.0, -2.0, 6.0, 0.0),
    ],
    ids=[
        "on policy",
        "inside the clip",
        "too likely and good: clipped",
        "too unlikely and good: pulled back",
        "too likely and bad: pushed down",
        "too unlikely and bad: clipped",
        "below the dual clip",
        "dual clip at three times the advantage",
    ],
)
def test_grpo_of_one_token_is_as_computed_by_hand(
    ratio: float, advantage: float, loss: float, gradient: float
) -> None:
    inputs = inputs_of([[math.log(ratio)]], [advantage])
    assert loss_of(inputs, GRPO) == pytest.approx(loss)
    assert gradient_of(inputs, GRPO).item() == pytest.approx(gradient)


@pytest.mark.parametrize(("ratio", "loss"), [(1.25, -1.25), (1.3, -1.28), (0.79, -0.79)])
def test_dapo_clips_higher_above_than_below(ratio: float, loss: float) -> None:
    assert loss_of(inputs_of([[math.log(ratio)]], [1.0]), DAPO) == pytest.approx(loss)


def test_dapo_limits_bad_tokens_at_ten_times_the_advantage() -> None:
    inputs = inputs_of([[math.log(9.9)], [math.log(12.0)]], [-1.0, -1.0])
    assert loss_of(inputs, DAPO) == pytest.approx((9.9 + 10.0) / 2)
    assert loss_of(inputs, replace(DAPO, dual_clip=0.0)) == pytest.approx((9.9 + 12.0) / 2)


def test_the_dual_clip_leaves_good_tokens_alone() -> None:
    inputs = inputs_of([[math.log(0.1)], [math.log(40.0)]], [1.0, 1.0])
    assert loss_of(inputs, GRPO) == loss_of(inputs, replace(GRPO, dual_clip=0.0))


def test_gspo_of_two_tokens_is_as_computed_by_hand() -> None:
    inputs = inputs_of([[2e-4, 3e-4], [1e-3, 1e-3, 1e-3]], [1.0, 1.0])
    inside, clipped = -math.exp(2.5e-4), -(1 + 4e-4)
    assert loss_of(inputs, GSPO) == pytest.approx((inside + clipped) / 2, rel=1e-12)
    # The ratio of the response times each token's share in mean and batch; nothing if clipped.
    expected = [inside / 2 / 2, inside / 2 / 2, 0.0, 0.0, 0.0]
    assert gradient_of(inputs, GSPO).tolist() == pytest.approx(expected, rel=1e-12)


@given(batch=st.lists(st.tuples(LOG_RATIO, st.floats(-3, 3)), min_size=1, max_size=5))
def test_gspo_equals_grpo_at_length_one_with_the_same_clips(
    batch: list[tuple[float, float]],
) -> None:
    """Up to ratios of e^10 and from e^-20 on, where the reference code cuts them differently."""
    log_ratios = [[max(-19.9, min(9.9, x))] for x, _ in batch]
    inputs = inputs_of(log_ratios, [a for _, a in batch])
    token = PolicyObjective("token", "token", 0.2, 0.3, 3.0)
    sequence = PolicyObjective("sequence", "sequence", 0.2, 0.3, 3.0)
    assert loss_of(inputs, sequence) == pytest.approx(loss_of(inputs, token), rel=1e-12)
    ours, theirs = gradient_of(inputs, sequence), gradient_of(inputs, token)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@given(batch=BATCH)
def test_the_gspo_gradient_is_that_of_the_geometric_mean_ratio(
    batch: list[tuple[list[float], float]],
) -> None:
    """TRL's form: one ratio per response, exp of the mean log-ratio, differentiated directly."""
    log_ratios = [[max(-2.0, min(2.0, x)) for x in r] for r, _ in batch]
    inputs = inputs_of(log_ratios, [a for _, a in batch])
    responses = (inputs.logprobs - inputs.old_logprobs).split([len(r) for r in log_ratios])
    ratio = torch.stack([response.mean() for response in responses]).exp()
    plain = -inputs.advantages * ratio
    clipped = -inputs.advantages * ratio.clamp(1 - GSPO.clip_low, 1 + GSPO.clip_high)
    (expected,) = torch.autograd.grad(torch.maximum(plain, clipped).mean(), inputs.logprobs)
    torch.testing.assert_close(gradient_of(inputs, GSPO), expected, rtol=1e-9, atol=1e-12)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    advantages=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
def test_dapo_and_grpo_coincide_at_ratio_one(lengths: list[int], advantages: list[float]) -> None:
    inputs = inputs_of([[0.0] * n for n in lengths], advantages[: len(lengths)])
    assert loss_of(inputs, DAPO) == loss_of(inputs, GRPO)
    assert torch.equal(gradient_of(inputs, DAPO), gradient_of(inputs, GRPO))


@pytest.mark.parametrize("objective", [*OBJECTIVES.values(), ON_POLICY], ids=[*OBJECTIVES, "align"])
def test_on_policy_gradients_are_those_of_reinforce(objective: PolicyObjective) -> None:
    lengths, advantages = [2, 5, 1], [1.5, -0.7, 0.2]
    inputs = inputs_of([[0.0] * n for n in lengths], advantages)
    pieces = [
        a * (p.mean() if objective.average == "sequence" else p.sum())
        for p, a in zip(inputs.logprobs.split(lengths), advantages, strict=True)
    ]
    count = {"token": sum(lengths), "sequence": 3, "length_limit": 3 * LIMIT}[objective.average]
    reinforce = -torch.stack(pieces).sum() / count
    (expected,) = torch.autograd.grad(reinforce, inputs.logprobs)
    torch.testing.assert_close(gradient_of(inputs, objective), expected, rtol=1e-12, atol=0)
    outputs = policy_loss(inputs, objective)
    assert outputs.clipped_tokens.item() == 0


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
@given(batch=BATCH)
def test_zero_advantages_give_no_loss_and_no_gradient(
    objective: PolicyObjective, batch: list[tuple[list[float], float]]
) -> None:
    inputs = inputs_of([r for r, _ in batch], [0.0] * len(batch))
    assert loss_of(inputs, objective) == 0
    assert not gradient_of(inputs, objective).any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(1.5, 2.0, 1.5), (7.0, 2.0, 5.0), (7.0, -2.0, 5.0), (0.01, 2.0, 0.01), (1e-8, -2.0, 1e-8)],
    ids=["as it is", "good: capped", "bad: capped", "good: no lower bound", "bad: no lower bound"],
)
def test_cispo_weighs_every_tokens_gradient_by_its_capped_ratio(
    ratio: float, advantage: float, weight: float
) -> None:
    inputs = inputs_of([[math.log(ratio)]], [advantage])
    assert gradient_of(inputs, CISPO).item() == pytest.approx(-advantage * weight)
    log_p = inputs.logprobs.item()
    assert loss_of(inputs, CISPO) == pytest.approx(-advantage * weight * log_p)


def test_cispo_with_a_lower_bound_lifts_small_weights_to_it() -> None:
    """verl's two-sided form, as `clipLow: 0.2` gives it."""
    inputs = inputs_of([[math.log(0.01)]], [2.0])
    assert gradient_of(inputs, replace(CISPO, clip_low=0.2)).item() == pytest.approx(-2 * 0.8)


def test_dr_grpo_divides_by_responses_and_the_length_limit_whatever_the_lengths() -> None:
    """So that every token counts alike in every batch: here one of 1 and one of 6 tokens."""
    inputs = inputs_of([[0.0], [0.0] * 6], [1.0, 1.0])
    assert loss_of(inputs, DR_GRPO) == pytest.approx(-7 / (2 * LIMIT))
    assert gradient_of(inputs, DR_GRPO).tolist() == pytest.approx([-1 / (2 * LIMIT)] * 7)


@given(batch=BATCH)
def test_dr_grpo_is_the_token_mean_times_the_mean_length_over_the_limit(
    batch: list[tuple[list[float], float]],
) -> None:
    inputs = inputs_of([r for r, _ in batch], [a for _, a in batch])
    token_mean = loss_of(inputs, replace(DR_GRPO, average="token"))
    mean_length = sum(len(r) for r, _ in batch) / len(batch)
    assert loss_of(inputs, DR_GRPO) == pytest.approx(token_mean * mean_length / LIMIT, rel=1e-9)


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
def test_an_empty_response_counts_in_means_over_responses_only(objective: PolicyObjective) -> None:
    """Nothing of it is trained, as in TRL and verl with the batch's own count."""
    with_empty = inputs_of([[0.1, -0.4], [], [0.3]], [1.0, 5.0, -0.5])
    without = inputs_of([[0.1, -0.4], [0.3]], [1.0, -0.5])
    share = 1.0 if objective.average == "token" else 2 / 3
    assert loss_of(with_empty, objective) == pytest.approx(share * loss_of(without, objective))
    ours, theirs = gradient_of(with_empty, objective), gradient_of(without, objective)
    torch.testing.assert_close(ours, share * theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
def test_a_batch_of_empty_responses_has_no_loss(objective: PolicyObjective) -> None:
    inputs = inputs_of([[], []], [1.0, -1.0], total_tokens=0.0)
    assert loss_of(inputs, objective) == 0.0
    assert gradient_of(inputs, objective).shape == (0,)


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
@given(batch=BATCH, weights=st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=20, max_size=20))
def test_a_correction_weighs_each_tokens_loss_and_no_count(
    objective: PolicyObjective, batch: list[tuple[list[float], float]], weights: list[float]
) -> None:
    log_ratios, advantages = [r for r, _ in batch], [a for _, a in batch]
    plain = inputs_of(log_ratios, advantages)
    chosen = torch.tensor(weights[: len(plain.logprobs)], dtype=torch.float64)
    corrected = replace(plain, correction=chosen)
    expected = chosen * gradient_of(plain, objective)
    torch.testing.assert_close(gradient_of(corrected, objective), expected, rtol=1e-12, atol=1e-300)
    ones = replace(plain, correction=torch.ones_like(chosen))
    assert loss_of(ones, objective) == loss_of(plain, objective)


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_log_ratios_of_hundreds_leave_loss_and_gradient_finite(
    objective: PolicyObjective, sign: float
) -> None:
    inputs = inputs_of([[500.0, -500.0], [-800.0], [800.0]], [sign, -sign, sign])
    assert math.isfinite(loss_of(inputs, objective))
    assert gradient_of(inputs, objective).isfinite().all()


def test_log_ratios_beyond_twenty_are_cut_and_carry_no_gradient() -> None:
    bad = replace(GRPO, dual_clip=0.0)
    inputs = inputs_of([[25.0], [19.0], [-25.0]], [-1.0, -1.0, 1.0])
    expected = (math.exp(20) + math.exp(19) - math.exp(-20)) / 3
    assert loss_of(inputs, bad) == pytest.approx(expected)
    gradient = gradient_of(inputs, bad)
    assert gradient.isfinite().all()
    assert gradient.tolist() == pytest.approx([0.0, math.exp(19) / 3, 0.0])


def test_sequence_ratios_are_cut_at_e_to_the_ten() -> None:
    inputs = inputs_of([[30.0, 10.0]], [-1.0])
    assert loss_of(inputs, GSPO) == pytest.approx(math.exp(10))
    assert gradient_of(inputs, GSPO).tolist() == [0.0, 0.0]


def test_token_mean_weighs_tokens_and_sequence_mean_responses() -> None:
    log_ratios, advantages = [[0.0], [0.0] * 9], [1.0, -1.0]
    by_token = loss_of(inputs_of(log_ratios, advantages), GRPO)
    by_sequence = loss_of(inputs_of(log_ratios, advantages), replace(GRPO, average="sequence"))
    assert by_token == pytest.approx((-1 + 9) / 10)
    assert by_sequence == pytest.approx(0.0)


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
def test_parts_of_a_batch_add_up_to_the_whole(objective: PolicyObjective) -> None:
    log_ratios = [[0.1, -0.4], [0.3] * 5, [-0.1], [2.0, -2.0, 0.0]]
    advantages = [1.0, -0.5, 2.0, -1.0]
    whole = loss_of(inputs_of(log_ratios, advantages), objective)
    parts = [
        loss_of(inputs_of(log_ratios[a:b], advantages[a:b], 11.0, 4.0), objective)
        for a, b in ((0, 1), (1, 3), (3, 4))
    ]
    assert sum(parts) == pytest.approx(whole)


def test_clipped_tokens_are_counted() -> None:
    inputs = inputs_of([[0.0, 0.5, -0.5], [0.5, -0.5]], [1.0, -1.0])
    outputs: PolicyLossOutputs = policy_loss(inputs, GRPO)
    assert outputs.clipped_tokens.item() == 2


def test_capped_weights_of_cispo_are_counted_where_there_is_an_advantage() -> None:
    inputs = inputs_of([[0.0, 2.0, -5.0], [2.0], [2.0]], [1.0, -1.0, 0.0])
    assert policy_loss(inputs, CISPO).clipped_tokens.item() == 2


@pytest.mark.parametrize(("algorithm", "expected"), list(OBJECTIVES.items()))
def test_the_published_rows_are_used(algorithm: Algorithm, expected: PolicyObjective) -> None:
    row = ALGORITHM_ROWS[algorithm]
    stage = RlvrStage(
        algorithm=algorithm,
        data=DataSource(uri="file:///x.parquet"),
        clip_low=row.clip_low,
        clip_high=row.clip_high,
        dual_clip=row.dual_clip,
    )
    assert objective_of(stage) == expected


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
