"""The verifier: every verdict below is stated by hand, from what a teacher would say."""

import pytest

from answer_pairs import AnswerPair, read_answer_pairs
from prism_trainer.rewards.verifier import TOO_LONG, Verdict, verify, verify_any, verify_many

PAIRS = read_answer_pairs()


def test_the_table_has_hundreds_of_pairs_of_every_verdict() -> None:
    assert len(PAIRS) >= 300
    assert {pair.verdict for pair in PAIRS} == set(Verdict)
    assert len({(pair.prediction, pair.truth) for pair in PAIRS}) == len(PAIRS)


@pytest.mark.parametrize(
    "pair", PAIRS, ids=lambda pair: f"{pair.kind}: {pair.prediction} for {pair.truth}"
)
def test_a_prediction_is_judged_as_a_teacher_would(pair: AnswerPair) -> None:
    assert verify(pair.prediction, pair.truth) == pair.verdict


def test_a_batch_gets_the_verdicts_of_its_samples() -> None:
    verdicts = verify_many([(pair.prediction, [pair.truth]) for pair in PAIRS])
    assert verdicts == [pair.verdict for pair in PAIRS]


def test_an_answer_over_two_lines_is_one_text() -> None:
    assert verify("the  red\ncube", "the red cube") is Verdict.RIGHT


@pytest.mark.parametrize(
    "wrapped",
    [
        "$7$",
        "$$7$$",
        "$ 7 $",
        r"\(7\)",
        r"\[7\]",
        r"\boxed{7}",
        r"$\boxed{7}$",
        "**7**",
        "7.",
        " 7\n",
    ],
)
def test_wrappers_around_an_answer_are_ignored(wrapped: str) -> None:
    assert verify(wrapped, "7") is Verdict.RIGHT
    assert verify("7", wrapped) is Verdict.RIGHT
    assert verify(wrapped, "8") is Verdict.WRONG


@pytest.mark.parametrize(
    "prediction",
    [
        pytest.param("", id="empty"),
        pytest.param(" \n", id="space"),
        pytest.param("$$", id="empty formula"),
        pytest.param("7" * TOO_LONG, id="too long"),
        pytest.param("7" + " " * TOO_LONG + "x", id="too long with space"),
        pytest.param(r"\frac{", id="broken LaTeX"),
        pytest.param("(" * 500 + "7" + ")" * 500, id="a thousand brackets"),
        pytest.param("7e99999999999", id="exponent beyond memory"),
        pytest.param("\x00\ud800", id="no text at all"),
    ],
)
def test_a_prediction_that_says_nothing_is_wrong(prediction: str) -> None:
    assert verify(prediction, "7") is Verdict.WRONG


def test_the_longest_answer_is_still_compared() -> None:
    longest = "7" * (TOO_LONG - 1)
    assert verify(longest, longest) is Verdict.RIGHT
    assert verify(f" {longest} ", longest) is Verdict.RIGHT


@pytest.mark.parametrize(
    "truth",
    [
        pytest.param("", id="empty"),
        pytest.param(" \n", id="space"),
        pytest.param("$$", id="empty formula"),
        pytest.param(r"\text{}", id="empty LaTeX text"),
        pytest.param("__EMPTY__", id="placeholder of the reference data"),
        pytest.param("7" * TOO_LONG, id="longer than any answer may be"),
    ],
)
@pytest.mark.parametrize("prediction", ["7", "", "7" * TOO_LONG, "__EMPTY__"])
def test_an_unusable_truth_is_unverifiable_whatever_was_answered(
    truth: str, prediction: str
) -> None:
    assert verify(prediction, truth) is Verdict.UNVERIFIABLE


@pytest.mark.parametrize(
    ("prediction", "truths", "verdict"),
    [
        pytest.param("7", ["7"], Verdict.RIGHT, id="the only truth"),
        pytest.param("7", ["8", "7.0"], Verdict.RIGHT, id="the second truth"),
        pytest.param("7", ["8", "9"], Verdict.WRONG, id="no truth"),
        pytest.param("7", ["", "7"], Verdict.RIGHT, id="unusable truth beside a right one"),
        pytest.param(
            "7", ["8", "__EMPTY__"], Verdict.WRONG, id="unusable truth beside a wrong one"
        ),
        pytest.param("7", ["", "__EMPTY__"], Verdict.UNVERIFIABLE, id="unusable truths only"),
        pytest.param("7", [], Verdict.UNVERIFIABLE, id="no truths"),
        pytest.param("", ["7"], Verdict.WRONG, id="empty prediction"),
    ],
)
def test_any_of_several_truths_is_enough(
    prediction: str, truths: list[str], verdict: Verdict
) -> None:
    assert verify_any(prediction, truths) is verdict
