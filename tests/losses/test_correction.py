"""Weights for what rollout servers sampled: by hand, and the laws that they keep."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prism_api.reinforcement import RolloutCorrection
from prism_trainer.losses.correction import rollout_divergence, rollout_weights

GAPS = [[math.log(0.1), 0.0, math.log(1.5)], [math.log(4.0)], [math.log(3.0), math.log(0.5)]]
"""Trainer minus server, in log-probability, of three responses."""


def weights_of(
    gaps: list[list[float]], level: str, mode: str, low: float = 0.0, high: float = 2.0
) -> tuple[list[float], list[bool]]:
    lengths = torch.tensor([len(response) for response in gaps], dtype=torch.long)
    index = torch.repeat_interleave(torch.arange(len(gaps)), lengths)
    flat = torch.tensor([x for response in gaps for x in response], dtype=torch.float64)
    settings = RolloutCorrection.model_validate(
        {"level": level, "mode": mode, "min_weight": low, "max_weight": high}
    )
    weights, is_cut = rollout_weights(flat, index, len(gaps), settings)
    return weights.tolist(), is_cut.tolist()


@pytest.mark.parametrize(
    ("level", "mode", "weights", "cut"),
    [
        ("token", "clamp", [0.5, 1, 1.5, 2, 2, 0.5], [1, 0, 0, 1, 1, 0]),
        ("token", "mask", [0, 1, 1.5, 0, 0, 0.5], [1, 0, 0, 1, 1, 0]),
        ("sequence", "clamp", [0.5] * 3 + [2] + [1.5] * 2, [1, 1, 1, 1, 0, 0]),
        ("sequence", "mask", [0] * 3 + [0] + [1.5] * 2, [1, 1, 1, 1, 0, 0]),
    ],
)
def test_weights_are_as_computed_by_hand(
    level: str, mode: str, weights: list[float], cut: list[int]
) -> None:
    """Between 0.5 and 2; as sequences the three weigh 0.15, 4 and 1.5."""
    ours, is_cut = weights_of(GAPS, level, mode, low=0.5 - 1e-9)
    assert ours == pytest.approx(weights)
    assert is_cut == [bool(flag) for flag in cut]


LEVELS, MODES = ["token", "sequence"], ["clamp", "mask"]
BATCH = st.lists(st.lists(st.floats(-50, 50), max_size=5), min_size=1, max_size=4)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", MODES)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_a_server_that_agrees_with_the_trainer_is_not_corrected(
    level: str, mode: str, lengths: list[int]
) -> None:
    ours, is_cut = weights_of([[0.0] * n for n in lengths], level, mode)
    assert ours == [1.0] * sum(lengths)
    assert not any(is_cut)


@pytest.mark.parametrize("level", LEVELS)
@given(batch=BATCH, low=st.floats(0, 0.9), high=st.floats(1, 100))
def test_weights_lie_within_the_bounds_and_masked_ones_are_zero(
    level: str, batch: list[list[float]], low: float, high: float
) -> None:
    clamped, cut = weights_of(batch, level, "clamp", low, high)
    masked, cut_too = weights_of(batch, level, "mask", low, high)
    assert cut == cut_too
    assert all(low <= weight <= high for weight in clamped)
    assert masked == [0.0 if is_cut else w for w, is_cut in zip(clamped, cut, strict=True)]


@pytest.mark.parametrize("mode", MODES)
@given(batch=st.lists(st.floats(-50, 50), min_size=1, max_size=6))
def test_sequence_and_token_weights_are_the_same_at_length_one(
    mode: str, batch: list[float]
) -> None:
    gaps = [[gap] for gap in batch]
    assert weights_of(gaps, "token", mode) == weights_of(gaps, "sequence", mode)


@given(batch=BATCH, other=BATCH)
def test_a_responses_weights_do_not_depend_on_its_batch(
    batch: list[list[float]], other: list[list[float]]
) -> None:
    count = sum(map(len, batch))
    alone, _ = weights_of(batch, "sequence", "clamp")
    together, _ = weights_of(batch + other, "sequence", "clamp")
    assert together[:count] == alone


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", MODES)
def test_weights_are_finite_however_far_server_and_trainer_are_apart(level: str, mode: str) -> None:
    weights, is_cut = weights_of([[3000.0], [-3000.0], [math.inf], [-math.inf]], level, mode)
    top = 2.0 if mode == "clamp" else 0.0
    assert weights == [top, 0.0, top, 0.0]
    assert is_cut == [True, False, True, False]


def probabilities() -> tuple[Tensor, Tensor]:
    server = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    return server, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def test_the_estimate_averages_to_the_divergence_of_the_server_from_the_trainer() -> None:
    server, trainer = probabilities()
    mean = (server * rollout_divergence((trainer / server).log())).sum()
    assert mean.item() == pytest.approx(float((server * (server / trainer).log()).sum()))


def test_weighted_samples_of_the_server_average_like_the_trainers_own() -> None:
    """What the correction is for; exact as long as no bound acts."""
    server, trainer = probabilities()
    losses = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    gaps = (trainer / server).log()
    weights, is_cut = weights_of([[gap] for gap in gaps.tolist()], "token", "clamp", high=3.0)
    assert not any(is_cut)
    corrected = (server * torch.tensor(weights, dtype=torch.float64) * losses).sum()
    assert corrected.item() == pytest.approx(float((trainer * losses).sum()))
