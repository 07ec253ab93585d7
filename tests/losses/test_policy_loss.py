"""The clipped surrogates with hand-computed numbers, and the laws that tie them together.

`transcribed_loss` is a second, scalar version straight from prism-method.md 6.2.
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
OBJECTIVES = {"grpo": GRPO, "dapo": DAPO, "gspo": GSPO}


def inputs_of(
    log_ratios: Sequence[Sequence[float]],
    advantages: Sequence[float],
    total_tokens: float | None = None,
    total_responses: float | None = None,
) -> PolicyLossInputs:
    """Responses with the given log-ratios per token, whose log-probabilities have gradients."""
    lengths = [len(response) for response in log_ratios]
    flat = torch.tensor([x for r in log_ratios for x in r], dtype=torch.float64)
    old = torch.linspace(-3, -0.5, len(flat), dtype=torch.float64)
    return PolicyLossInputs(
        logprobs=(old + flat).requires_grad_(),
        old_logprobs=old,
        advantages=torch.tensor(advantages, dtype=torch.float64),
        response_index=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        response_lengths=torch.tensor(lengths),
        total_tokens=total_tokens or float(sum(lengths)),
        total_responses=total_responses or float(len(lengths)),
    )


def gradient_of(inputs: PolicyLossInputs, objective: PolicyObjective) -> Tensor:
    (gradient,) = torch.autograd.grad(policy_loss(inputs, objective).loss, inputs.logprobs)
    return gradient


def loss_of(inputs: PolicyLossInputs, objective: PolicyObjective) -> float:
    return policy_loss(inputs, objective).loss.item()


def transcribed_loss(
    log_ratios: Sequence[Sequence[float]], advantages: Sequence[float], algorithm: str
) -> float:
    low, high, c = {"grpo": (0.2, 0.2, 3.0), "dapo": (0.2, 0.28, 10.0), "gspo": (3e-4, 4e-4, 0.0)}[
        algorithm
    ]
    rows = []
    for response, a in zip(log_ratios, advantages, strict=True):
        row = []
        for x in response:
            if algorithm == "gspo":
                rho = math.exp(min(sum(response) / len(response), 10.0))
            else:
                rho = math.exp(max(-20.0, min(20.0, x)))
            value = max(-a * rho, -a * max(1 - low, min(1 + high, rho)))
            row.append(min(value, -a * c) if c and a < 0 else value)
        rows.append(row)
    if algorithm == "gspo":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
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
        a * p.mean() * (n if objective.average == "token" else 1)
        for p, a, n in zip(inputs.logprobs.split(lengths), advantages, lengths, strict=True)
    ]
    count = sum(lengths) if objective.average == "token" else len(lengths)
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


@pytest.mark.parametrize(("algorithm", "expected"), list(OBJECTIVES.items()))
def test_the_published_rows_are_used(algorithm: str, expected: PolicyObjective) -> None:
    row = ALGORITHM_ROWS[algorithm]  # type: ignore[index]
    stage = RlvrStage(
        algorithm=algorithm,  # type: ignore[arg-type]
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
    expected = [math.expm1(x) - x for x in log_ratios]
    assert penalty.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert (penalty > -1e-12).all()


def test_the_kl_penalty_and_its_gradient_are_zero_at_equality() -> None:
    logprobs = torch.tensor([-0.5, -3.0], requires_grad=True)
    penalty = kl_penalty(logprobs, logprobs.detach())
    penalty.sum().backward()
    assert penalty.tolist() == [0.0, 0.0]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, 0.0]


def test_the_kl_penalty_averages_to_the_divergence() -> None:
    """k3 is unbiased under the policy: its mean over the policy's distribution is the KL itself."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    mean = (p * kl_penalty(p.log(), q.log())).sum()
    assert mean.item() == pytest.approx(float((p * (p / q).log()).sum()))
