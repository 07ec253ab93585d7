"""Advantages that depend on right answers, against a plain transcription of prism-method.md 5.3."""

import statistics
from collections.abc import Sequence
from typing import Any, Literal, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prism_api.gating import Gating
from prism_trainer.advantages import alignment_advantages, group_normalise
from prism_trainer.gating import answers_of, gated_advantages
from prism_trainer.rewards.reward import RewardWeights, score

Mode = Literal["acc_gating", "rlvr", "rlvr_v2", "sign_align"]
MODES: tuple[Mode, ...] = get_args(Mode)
Verdicts = Sequence[bool | None]
COEFFICIENT = st.floats(0, 3)
SIZE = 5


def tensor(values: Sequence[Any], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor([list(values)], dtype=dtype)


def gated(
    alignment: Sequence[float],
    valid: Sequence[bool],
    verdicts: Verdicts,
    penalty: float = 1.5,
    **gating: Any,
) -> list[float]:
    """One group's advantages."""
    table = tensor(valid, torch.bool)
    result: list[float] = gated_advantages(
        tensor(alignment), table, answers_of([verdicts], table), Gating(**gating), penalty
    )[0].tolist()
    return result


def z_scores(values: Sequence[float]) -> list[float]:
    if len(values) == 1:
        return [values[0] / (1 + 1e-6)]
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return [(v - mean) / (deviation + 1e-6) for v in values]


def transcribed(
    a: Sequence[float],
    valid: Sequence[bool],
    verdicts: Verdicts,
    format_penalty: float,
    gating: Gating,
) -> list[float]:
    """The table of the specification, response by response; F, W, acc and fmt as there."""
    known = None not in verdicts
    n = range(len(a))
    f_ = [0.0 if v else 1.0 for v in valid]
    acc = [1.0 if known and valid[i] and verdicts[i] else 0.0 for i in n]
    w_ = [1.0 if known and valid[i] and acc[i] <= 0 else 0.0 for i in n]
    fmt = [1.0 - f for f in f_]
    w_acc, w_fmt, wrong = gating.accuracy_weight, gating.format_weight, gating.wrong_penalty
    coef = gating.align_coef
    if gating.mode == "sign_align":
        z = z_scores(
            [
                (1 - f_[i]) * (w_acc * acc[i] + w_fmt * fmt[i] - wrong * w_[i])
                - format_penalty * f_[i]
                for i in n
            ]
        )
        return [z[i] + coef * a[i] * (1 - f_[i]) * (1 - 2 * w_[i]) for i in n]
    if gating.mode == "rlvr_v2":
        z = z_scores(
            [w_acc * acc[i] + w_fmt * fmt[i] - wrong * w_[i] - format_penalty * f_[i] for i in n]
        )
        return [z[i] + coef * a[i] * (1 - f_[i]) * (1 - w_[i]) for i in n]
    if gating.mode == "rlvr":
        z = z_scores([w_acc * acc[i] + w_fmt * fmt[i] for i in n])
        return [z[i] + coef * a[i] * (1 - f_[i]) * (1 - w_[i]) for i in n]
    return [coef * a[i] - wrong * w_[i] - format_penalty * f_[i] for i in n]


GROUP: dict[str, Any] = {
    "a": [0.5, -0.25, 1.0, -1.25],
    "valid": [True, True, True, False],
    "verdicts": [True, False, True, False],
}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # 0.5; -0.25 - 1; 1; -1.25 - 1.5
        ("acc_gating", [0.5, -1.25, 1.0, -2.75]),
        # Rewards 2, 1, 2, 0: mean 1.25, deviation sqrt(2.75 / 3) = 0.9574271.
        ("rlvr", [0.7833495 + 0.5, -0.2611165, 0.7833495 + 1.0, -1.3055825]),
        # Rewards 2, 0, 2, -1.5: mean 0.625, deviation sqrt(8.6875 / 3) = 1.7017148.
        ("rlvr_v2", [0.8080084 + 0.5, -0.3672765, 0.8080084 + 1.0, -1.2487403]),
        ("sign_align", [0.8080084 + 0.5, -0.3672765 + 0.25, 0.8080084 + 1.0, -1.2487403]),
    ],
)
def test_every_mode_is_as_computed_by_hand(mode: Mode, expected: list[float]) -> None:
    ours = gated(GROUP["a"], GROUP["valid"], GROUP["verdicts"], mode=mode)
    assert ours == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("mode", MODES)
@given(
    a=st.lists(st.floats(-3, 3), min_size=SIZE, max_size=SIZE),
    valid=st.lists(st.booleans(), min_size=SIZE, max_size=SIZE),
    verdicts=st.lists(st.sampled_from([True, False, False, None]), min_size=SIZE, max_size=SIZE),
    size=st.integers(1, SIZE),
    penalty=COEFFICIENT,
    weights=st.tuples(COEFFICIENT, COEFFICIENT, COEFFICIENT, COEFFICIENT),
)
def test_every_mode_equals_a_transcription(
    mode: Mode,
    a: list[float],
    valid: list[bool],
    verdicts: list[bool | None],
    size: int,
    penalty: float,
    weights: tuple[float, ...],
) -> None:
    names = ("align_coef", "wrong_penalty", "accuracy_weight", "format_weight")
    gating = Gating(mode=mode, **dict(zip(names, weights, strict=True)))
    group = a[:size], valid[:size], verdicts[:size]
    expected = transcribed(*group, penalty, gating)
    # A deviation of rounding only is 0 with us and divides rounding by 1e-6 in the transcription.
    assert gated(*group, penalty, **dict(gating)) == pytest.approx(expected, abs=1e-6)


SCORES = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=SIZE, max_size=SIZE)
FLAGS = st.lists(st.booleans(), min_size=SIZE, max_size=SIZE)


def aligned(scores: Sequence[Any], valid: Sequence[bool], penalty: float) -> list[float]:
    table = tensor(scores)
    result: list[float] = alignment_advantages(
        table, tensor(valid, torch.bool), (0.5, 0.5), penalty, "per_component"
    )[0].tolist()
    return result


@given(scores=SCORES, valid=FLAGS, penalty=COEFFICIENT, knows=st.booleans())
def test_accuracy_gating_without_a_wrong_answer_is_plain_alignment(
    scores: Sequence[Any], valid: list[bool], penalty: float, knows: bool
) -> None:
    """All right, or nothing known about any."""
    verdicts: Verdicts = [True] * SIZE if knows else [False] * (SIZE - 1) + [None]
    ours = gated(aligned(scores, valid, 0.0), valid, verdicts, penalty, mode="acc_gating")
    assert ours == pytest.approx(aligned(scores, valid, penalty), abs=1e-6)


@given(right=FLAGS, valid=FLAGS)
def test_rlvr_gating_without_alignment_is_the_advantage_of_rlvr(
    right: list[bool], valid: list[bool]
) -> None:
    texts = [
        "<caption>\n</caption><think>\n</think>" * v + f"<answer>{4 if r else 5}</answer>"
        for r, v in zip(right, valid, strict=True)
    ]
    rewards = [score(text, ["4"], RewardWeights(0.8, 0.2)).total for text in texts]
    expected = group_normalise(tensor(rewards))[0].tolist()
    settings = {"align_coef": 0, "accuracy_weight": 0.8, "format_weight": 0.2}
    junk = [9.0, -9.0, 3.0, 0.0, 1.0]
    ours = gated(junk, valid, right, 1.5, mode="rlvr", **settings)
    assert ours == pytest.approx(expected, abs=1e-9)


@given(scores=SCORES, valid=FLAGS, right=FLAGS, penalty=COEFFICIENT)
def test_the_modes_differ_by_what_they_say(
    scores: Sequence[Any], valid: list[bool], right: list[bool], penalty: float
) -> None:
    a = aligned(scores, valid, 0.0)
    plain, second, signed = (gated(a, valid, right, penalty, mode=m) for m in MODES[1:])
    wrong = [v and not r for v, r in zip(valid, right, strict=True)]
    reversed_ = [s - v for s, v in zip(signed, second, strict=True)]
    expected = [-x if w else 0.0 for x, w in zip(a, wrong, strict=True)]
    assert reversed_ == pytest.approx(expected, abs=1e-9)
    free = gated(a, valid, right, 0.0, mode="rlvr_v2", wrong_penalty=0)
    assert free == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
@given(a=st.lists(st.floats(-3, 3), min_size=SIZE, max_size=SIZE), valid=FLAGS, right=FLAGS)
def test_one_unverifiable_answer_hides_all_verdicts_of_its_group_and_of_no_other(
    mode: Mode, a: list[float], valid: list[bool], right: list[bool]
) -> None:
    def two_groups(first: Verdicts, second: Verdicts) -> list[list[float]]:
        table = torch.tensor([valid, valid])
        alignment = torch.tensor([a, a], dtype=torch.float64)
        answers = answers_of([first, second], table)
        result: list[list[float]] = gated_advantages(
            alignment, table, answers, Gating(mode=mode), 1.5
        ).tolist()
        return result

    hidden, seen = two_groups([None, *right[1:]], right)
    others, _ = two_groups([None] * SIZE, right)
    assert hidden == others
    assert seen == pytest.approx(gated(a, valid, right, mode=mode), abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_a_right_answer_is_never_worth_less_than_a_wrong_one(mode: Mode) -> None:
    for a in (2.0, 0.5, 0.0):
        wrong, right = gated([a, a], [True, True], [False, True], mode=mode)
        assert wrong < right
