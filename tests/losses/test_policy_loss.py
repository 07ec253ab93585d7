"""The clipped surrogates with hand-computed numbers and against a second, scalar version.

`transcribed_loss` is straight from prism-method.md 6.2, for Dr.GRPO and CISPO from their papers.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given

from policy_loss_builders import (
    BATCH,
    CISPO,
    DAPO,
    DR_GRPO,
    GRPO,
    GSPO,
    LIMIT,
    OBJECTIVES,
    gradient_of,
    inputs_of,
    loss_of,
)
from prism_api.algorithms import ALGORITHM_ROWS, PolicyObjective
from prism_api.reinforcement import Algorithm
from prism_api.resources import DataSource
from prism_api.stages import RlvrStage
from prism_trainer.losses.policy import PolicyLossOutputs, objective_of, policy_loss


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
