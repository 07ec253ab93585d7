r"""Answers that try to hang, crash or exhaust the verifier, and what they are worth.

A prediction is wrong, whatever it does; a truth is unusable. Only a failure of the verifier itself
masks a sample.
"""

import tracemalloc
from collections.abc import Collection, Iterator, Mapping

import pytest

from prism_trainer.rewards.pool import EvaluatorPool
from prism_trainer.rewards.values import Evaluation, Failure
from prism_trainer.rewards.verifier import Evaluator, Verdict, verify, verify_any, verify_many
from prism_trainer.rewards.worker_process import WorkerLimits

MEGABYTE = 2**20

COSTLY = [
    pytest.param("9^{9^{9^9}}", id="tower of powers"),
    pytest.param("9^9^9^9^9^9^9^9", id="typed tower"),
    pytest.param(r"\sin(10^{10^9})", id="endless range reduction"),
    pytest.param("9!!!!!!", id="repeated factorials"),
    pytest.param(r"e^{e^{e^{e^{e^{e}}}}}", id="tower of exponentials"),
    pytest.param(r"\tan(\tan(10^{10^8}))", id="functions of it"),
    pytest.param("x" + "^x" * 20, id="tower of symbols"),
    pytest.param(r"\binom{10^{10^{10}}}{2^{9^9}}", id="binomial"),
]
SHORT = [
    pytest.param("(" * 500 + "7" + ")" * 500, id="brackets"),
    pytest.param("{" * 1000, id="open braces"),
    pytest.param(r"\frac{" * 170, id="open fractions"),
    pytest.param(r"\sqrt{" * 100 + "7" + "}" * 100, id="nested roots"),
    pytest.param("|" * 1000, id="bars"),
    pytest.param("-" * 1000 + "8", id="signs"),
    pytest.param("^" * 1000, id="powers"),
    pytest.param("8" + "+8" * 500, id="long sum"),
    pytest.param("(8)" * 330, id="long product"),
    pytest.param("1," * 500, id="commas"),
    pytest.param("(1)" * 300, id="part markers"),
    pytest.param("x=" * 500, id="equation signs"),
    pytest.param("1<" * 500, id="chain of inequalities"),
    pytest.param("1 or " * 200, id="alternatives"),
    pytest.param("\N{UNION}" * 1000, id="unions"),
    pytest.param(r"\pm" * 300 + "8", id="signs of both kinds"),
    pytest.param(r"\boxed{" * 140, id="boxes"),
    pytest.param(r"\text{" * 160 + "}" * 60, id="texts"),
    pytest.param(r"\begin{pmatrix}" + r"\\" * 400 + r"\end{pmatrix}", id="empty rows"),
    pytest.param("cm " * 340, id="units"),
    pytest.param("8e999", id="large exponent"),
    pytest.param("8e99999999999", id="exponent beyond memory"),
    pytest.param("0." + "0" * 1000 + "8", id="many digits"),
    pytest.param("1/" * 500 + "8", id="fractions of fractions"),
    pytest.param(r"\int_0^\infty \frac{\sin(x^2+e^{-x})}{\ln(1+x)^{3/2}+1} dx", id="integral"),
    pytest.param(r"\sum_{n=1}^{\infty} \frac{1}{n^{1.0001}}", id="slow series"),
    pytest.param("__import__('os').system('kill -9 $PPID')", id="code"),
    pytest.param("'x 1 +", id="inner notation"),
    pytest.param("7\n'x", id="line break"),
    pytest.param("\x00\x01\ud800\uffff", id="no characters"),
    pytest.param("\N{ARABIC-INDIC DIGIT SEVEN}e\N{SUPERSCRIPT TWO}", id="other digits"),
]
LONG = [
    pytest.param("(" * MEGABYTE, id="open brackets"),
    pytest.param("(" * MEGABYTE + "7" + ")" * MEGABYTE, id="nested brackets"),
    pytest.param("7" * MEGABYTE, id="digits"),
    pytest.param("7 " * MEGABYTE, id="words"),
    pytest.param(" " * MEGABYTE + "8", id="space"),
    pytest.param("\\" * MEGABYTE, id="backslashes"),
    pytest.param("9^{" * (MEGABYTE // 3), id="powers"),
    pytest.param("<answer>" * (MEGABYTE // 8), id="tags"),
]


@pytest.fixture(scope="module")
def evaluator() -> Iterator[Evaluator]:
    pool = EvaluatorPool(2, WorkerLimits(cpu_seconds=0.3, memory_bytes=300 * 2**20))
    yield pool.evaluate
    pool.close()


def verdict(prediction: str, truth: str, evaluator: Evaluator) -> Verdict:
    return verify_many([(prediction, [truth])], evaluator)[0]


@pytest.mark.parametrize("text", [*COSTLY, *SHORT, *LONG])
def test_a_hostile_prediction_is_wrong(text: str, evaluator: Evaluator) -> None:
    assert verdict(text, "7", evaluator) is Verdict.WRONG
    assert verdict(text, r"\sqrt{2}+x", evaluator) is Verdict.WRONG
    assert verdict(f"{text}; 3", "2; 3", evaluator) is Verdict.WRONG


@pytest.mark.parametrize("text", COSTLY)
@pytest.mark.parametrize("prediction", ["7", "x+1", "itself"])
def test_a_costly_truth_is_unverifiable_whatever_was_answered(
    text: str, prediction: str, evaluator: Evaluator
) -> None:
    answer = text if prediction == "itself" else prediction
    assert verdict(answer, text, evaluator) is Verdict.UNVERIFIABLE
    assert verdict(answer, f"3; {text}", evaluator) is Verdict.UNVERIFIABLE


@pytest.mark.parametrize("text", [*SHORT, *LONG])
def test_a_hostile_truth_gets_a_verdict(text: str, evaluator: Evaluator) -> None:
    assert verdict("7", text, evaluator) in (Verdict.WRONG, Verdict.UNVERIFIABLE)


def test_hostile_answers_in_a_batch_change_no_other_verdict(evaluator: Evaluator) -> None:
    good = [(rf"2\sqrt{{{n}}}", [rf"\sqrt{{{4 * n}}}"]) for n in range(2, 22)]
    bad = [(str(text.values[0]), ["7"]) for text in COSTLY]
    batch = [sample for pair in zip(good, bad * 3, strict=False) for sample in pair]
    assert verify_many(batch, evaluator) == [Verdict.RIGHT, Verdict.WRONG] * len(good)


def test_another_usable_truth_decides_beside_a_costly_one(evaluator: Evaluator) -> None:
    costly = "9^{9^{9^9}}"
    samples = [("7", [costly, "7"]), ("8", [costly, "7"]), ("8", [costly])]
    assert verify_many(samples, evaluator) == [
        Verdict.RIGHT,
        Verdict.WRONG,
        Verdict.UNVERIFIABLE,
    ]


def failing(formulas: Collection[str]) -> Mapping[str, Evaluation]:
    return dict.fromkeys(formulas, Failure.VERIFIER_FAILED)


@pytest.mark.parametrize(
    ("prediction", "truths", "expected"),
    [
        pytest.param(r"\sqrt{4}", ["2"], Verdict.UNVERIFIABLE, id="prediction was not evaluated"),
        pytest.param("2", [r"\sqrt{4}"], Verdict.UNVERIFIABLE, id="truth was not evaluated"),
        pytest.param(r"\sqrt{4}", ["2", "3"], Verdict.UNVERIFIABLE, id="neither was decided"),
        pytest.param("3", ["3", r"\sqrt{4}"], Verdict.RIGHT, id="right without evaluation"),
        pytest.param("4", [r"\sqrt{4}", "3"], Verdict.UNVERIFIABLE, id="one was not decided"),
        pytest.param("4", ["3"], Verdict.WRONG, id="nothing to evaluate"),
        pytest.param("red", ["2"], Verdict.WRONG, id="text needs no evaluation"),
    ],
)
def test_a_failure_of_the_verifier_is_unverifiable(
    prediction: str, truths: list[str], expected: Verdict
) -> None:
    assert verify_many([(prediction, truths)], failing) == [expected]


def test_endless_answers_are_not_kept(evaluator: Evaluator) -> None:
    verdict("7" * MEGABYTE, "7" * MEGABYTE, evaluator)
    tracemalloc.start()
    for n in range(50):
        verdict(f"{n}" + "7" * MEGABYTE, f"{n}" + "8" * MEGABYTE, evaluator)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < MEGABYTE


def test_an_empty_batch_has_no_verdicts() -> None:
    assert verify_many([]) == []
    assert verify_any("7", []) is Verdict.UNVERIFIABLE


def test_single_verdicts_use_the_shared_pool() -> None:
    assert verify(r"2\sqrt{3}", r"\sqrt{12}") is Verdict.RIGHT
    assert verify_any(r"2\sqrt{3}", ["1", r"\sqrt{12}"]) is Verdict.RIGHT
