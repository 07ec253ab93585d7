"""Group-relative advantages: the reference code's vector, its corner cases, the paper's form."""

import statistics
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prism_trainer.advantages import alignment_advantages, group_centre, group_normalise

Form = Literal["per_component", "mixed"]
CAPTION, REASONING = [1.0, 2.0, 3.0, 0.0], [0.5, 0.5, 2.5, 0.0]
VALID = [True, True, True, False]


def advantages(
    caption: Sequence[float],
    reasoning: Sequence[float],
    valid: Sequence[bool],
    form: Form = "per_component",
    weights: tuple[float, float] = (0.5, 0.5),
    penalty: float = 1.5,
) -> list[float]:
    scores = torch.tensor([list(zip(caption, reasoning, strict=True))], dtype=torch.float64)
    table = torch.tensor([list(valid)])
    result: list[float] = alignment_advantages(scores, table, weights, penalty, form)[0].tolist()
    return result


def z_scores(values: Sequence[float]) -> list[float]:
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return [(v - mean) / (deviation + 1e-6) for v in values]


def test_the_reference_codes_vector_comes_out() -> None:
    expected = [-0.2930, 0.0943, 1.2763, -2.5776]
    assert advantages(CAPTION, REASONING, VALID) == pytest.approx(expected, abs=5e-5)


def test_an_invalid_response_stands_one_below_the_lowest_valid_and_pays() -> None:
    caption, reasoning = z_scores([1, 2, 3, 0]), z_scores([0.5, 0.5, 2.5, -0.5])
    expected = [0.5 * c + 0.5 * r for c, r in zip(caption, reasoning, strict=True)]
    expected[3] -= 1.5
    # Whatever score stands at an invalid response is not looked at.
    for junk in (0.0, 99.0, -99.0):
        ours = advantages([*CAPTION[:3], junk], [*REASONING[:3], -junk], VALID)
        assert ours == pytest.approx(expected, abs=1e-9)


def test_the_mixed_form_mixes_first_and_normalises_then() -> None:
    mixed = [0.25 * c + 0.75 * r for c, r in zip([1, 2, 3, 0], [0.5, 0.5, 2.5, -0.5], strict=True)]
    expected = z_scores(mixed)
    expected[3] -= 1.5
    ours = advantages(CAPTION, REASONING, VALID, "mixed", (0.25, 0.75))
    assert ours == pytest.approx(expected, abs=1e-9)


def test_the_two_forms_differ_where_the_spreads_do() -> None:
    caption, reasoning = [0.0, 10.0, 20.0], [2.0, 1.0, 0.0]
    valid = [True] * 3
    assert advantages(caption, reasoning, valid) == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert advantages(caption, reasoning, valid, "mixed") == pytest.approx([-1, 0, 1], abs=1e-6)


FORMS: tuple[Form, ...] = ("per_component", "mixed")


@pytest.mark.parametrize("form", FORMS)
def test_a_group_without_any_format_is_pushed_down_evenly(form: Form) -> None:
    assert advantages([5, 6, 7], [1, 2, 3], [False] * 3, form) == pytest.approx([-1.5] * 3)


@pytest.mark.parametrize("form", FORMS)
@given(
    caption=st.floats(-10, 10),
    reasoning=st.floats(-10, 10),
    size=st.integers(2, 20),
    share=st.floats(0, 1),
)
def test_a_group_of_equal_scores_has_exactly_no_advantage(
    form: Form, caption: float, reasoning: float, size: int, share: float
) -> None:
    """Rounding, divided by the deviation that it makes itself, would be of order one."""
    weights = (share, 1 - share)
    ours = advantages([caption] * size, [reasoning] * size, [True] * size, form, weights)
    assert ours == [0.0] * size


@pytest.mark.parametrize("form", FORMS)
def test_a_group_of_one_keeps_its_mixed_score(form: Form) -> None:
    assert advantages([2.0], [4.0], [True], form) == pytest.approx([3.0], rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
@given(
    caption=st.lists(st.floats(-10, 10), min_size=2, max_size=6),
    valid=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_groups_do_not_influence_each_other(
    form: Form, caption: list[float], valid: list[bool]
) -> None:
    size = len(caption)
    first = torch.tensor([[c, -c / 2] for c in caption], dtype=torch.float64)
    second = torch.arange(2 * size, dtype=torch.float64).view(size, 2)
    scores, table = torch.stack([first, second]), torch.tensor([valid[:size], [True] * size])
    both = alignment_advantages(scores, table, (0.5, 0.5), 1.5, form)
    alone = alignment_advantages(scores[:1], table[:1], (0.5, 0.5), 1.5, form)
    torch.testing.assert_close(both[:1], alone, rtol=0, atol=1e-8)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8).filter(lambda r: max(r) - min(r) > 0.1))
def test_normalised_rewards_have_mean_zero_and_deviation_one(rewards: list[float]) -> None:
    result = group_normalise(torch.tensor([rewards], dtype=torch.float64))[0]
    assert result.tolist() == pytest.approx(z_scores(rewards), abs=1e-9)
    assert result.mean().item() == pytest.approx(0, abs=1e-9)
    assert result.std().item() == pytest.approx(1, abs=1e-4)


def test_equal_rewards_normalise_to_zero_and_a_single_one_stays() -> None:
    assert group_normalise(torch.full((1, 4), 0.2, dtype=torch.float64)).tolist() == [[0.0] * 4]
    assert group_normalise(torch.tensor([[0.7]])).item() == pytest.approx(0.7, rel=1e-5)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_centred_rewards_are_the_normalised_ones_times_their_deviation(
    rewards: list[float],
) -> None:
    table = torch.tensor([rewards], dtype=torch.float64)
    centred = group_centre(table)[0].tolist()
    mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
    assert centred == pytest.approx([r - mean for r in rewards], abs=1e-12)
    scaled = [z * (deviation + 1e-6) for z in group_normalise(table)[0].tolist()]
    assert scaled == pytest.approx(centred, abs=1e-9)


def test_equal_rewards_centre_to_exactly_zero_and_a_single_one_stays() -> None:
    assert group_centre(torch.full((1, 7), 0.1, dtype=torch.float64)).tolist() == [[0.0] * 7]
    assert group_centre(torch.tensor([[0.7]], dtype=torch.float64)).item() == 0.7


def test_the_format_penalty_is_subtracted_in_float64() -> None:
    scores = torch.tensor([[[0.3, 0.1], [0.2, 0.5], [0.0, 0.0]]], dtype=torch.float64)
    valid = torch.tensor([[True, True, False]])
    free, paid = (
        alignment_advantages(scores, valid, (0.5, 0.5), penalty, "per_component")
        for penalty in (0.0, 0.1)
    )
    assert (free - paid).tolist() == [[0.0, 0.0, pytest.approx(0.1, abs=1e-15)]]
