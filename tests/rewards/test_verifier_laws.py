"""Laws of the verifier on generated answers and on the table of pairs."""

import random
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_pairs import AnswerPair, read_answer_pairs
from prism_trainer.rewards.cleaning import clean
from prism_trainer.rewards.reading import read_answer
from prism_trainer.rewards.verifier import Verdict, verify, verify_any, verify_many

PAIRS = [pair for pair in read_answer_pairs() if pair.verdict != "unverifiable"]

integers = st.integers(-(10**12), 10**12)
decimals = st.decimals(-(10**6), 10**6, places=3).map(lambda value: f"{value:f}")
fractions = st.fractions(max_denominator=1000).map(str)
numbers = st.one_of(integers.map(str), decimals, fractions)
tuples = st.lists(numbers, min_size=2, max_size=4).map(lambda items: f"({', '.join(items)})")
letters = st.sampled_from("ABCDEFGHIJ")
answers = st.one_of(numbers, tuples, letters, letters.map("({}) 5".format))
spaces = st.text(alphabet=" \n\t", max_size=3)


@given(answers)
def test_every_answer_is_right_for_itself(answer: str) -> None:
    assert verify(answer, answer) is Verdict.RIGHT


@given(answers, spaces, spaces)
def test_space_around_either_side_changes_nothing(answer: str, before: str, behind: str) -> None:
    padded = before + answer + behind
    assert verify(padded, answer) is Verdict.RIGHT
    assert verify(answer, padded) is Verdict.RIGHT


@given(tuples, tuples)
def test_space_between_items_changes_no_verdict(prediction: str, truth: str) -> None:
    tight = prediction.replace(" ", "")
    assert verify(tight, prediction) is Verdict.RIGHT
    assert verify(tight, truth) is verify(prediction, truth)
    assert verify(truth, tight) is verify(truth, prediction)


@given(answers)
def test_wrappers_change_nothing(answer: str) -> None:
    for wrapped in (f"${answer}$", rf"\({answer}\)", rf"\boxed{{{answer}}}", f"**{answer}**"):
        assert verify(wrapped, answer) is Verdict.RIGHT


@given(numbers, st.sampled_from(["x", "AB", "x_1", "y'"]))
def test_a_name_on_one_side_changes_nothing(number: str, name: str) -> None:
    assert verify(f"{name} = {number}", number) is Verdict.RIGHT
    assert verify(number, f"{name}={number}") is Verdict.RIGHT


@given(integers)
def test_thousands_separators_change_nothing(number: int) -> None:
    assert verify(f"{number:,}", str(number)) is Verdict.RIGHT
    assert verify(str(number), f"{number:,}") is Verdict.RIGHT


@given(integers, integers)
def test_integers_are_compared_exactly(prediction: int, truth: int) -> None:
    right = verify(str(prediction), str(truth)) is Verdict.RIGHT
    assert right == (prediction == truth)
    assert verify(f"{prediction} cm", f"{truth} cm") is verify(str(prediction), str(truth))


@given(st.fractions(max_denominator=1000), st.integers(1, 50))
def test_a_fraction_equals_its_multiples(value: Fraction, factor: int) -> None:
    spelled = f"{value.numerator * factor}/{value.denominator * factor}"
    latex = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert verify(spelled, latex) is Verdict.RIGHT


@given(numbers, numbers)
def test_which_side_is_the_truth_does_not_matter_for_numbers(one: str, other: str) -> None:
    assert verify(one, other) is verify(other, one)


@given(answers, st.lists(answers, min_size=1, max_size=4), st.randoms())
def test_one_right_answer_among_several_is_enough_in_any_order(
    prediction: str, truths: list[str], dice: random.Random
) -> None:
    some = any(verify(prediction, truth) is Verdict.RIGHT for truth in truths)
    shuffled = dice.sample(truths, len(truths))
    assert (verify_any(prediction, truths) is Verdict.RIGHT) == some
    assert verify_any(prediction, shuffled) is verify_any(prediction, truths)
    assert verify_any(prediction, [*shuffled, prediction]) is Verdict.RIGHT


@given(st.lists(st.tuples(answers, st.lists(answers, min_size=1, max_size=3)), max_size=6))
def test_verdicts_do_not_depend_on_what_else_is_verified(pairs: list[Any]) -> None:
    assert verify_many(pairs) == [verify_any(*pair) for pair in pairs]


@given(st.fractions(max_denominator=50), st.fractions(max_denominator=50))
def test_fractions_are_compared_exactly(one: Fraction, other: Fraction) -> None:
    right = verify(str(one), str(other)) is Verdict.RIGHT
    assert right == (one == other)


@given(letters, letters, numbers, numbers)
def test_letters_decide_over_texts(one: str, other: str, text: str, other_text: str) -> None:
    right = verify(f"({one}) {text}", f"({other}) {other_text}") is Verdict.RIGHT
    assert right == (one == other)


@pytest.mark.parametrize("side", ["prediction", "truth"])
def test_every_truth_and_prediction_of_the_table_is_right_for_itself(side: str) -> None:
    answers = [getattr(pair, side) for pair in PAIRS]
    verdicts = verify_many([(answer, [answer]) for answer in answers])
    assert [a for a, verdict in zip(answers, verdicts, strict=True) if verdict == "wrong"] == []


WRAPPERS = [
    "${}$",
    "$$ {} $$",
    r"\({}\)",
    r"\[ {} \]",
    r"\boxed{{{}}}",
    r"$\boxed{{{}}}$",
    r"\text{{{}}}",
    "**{}**",
    " {}\n",
    "{}.",
    "The answer is {}",
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("wrap_truth", [False, True])
def test_wrappers_change_no_verdict_of_the_table(wrapper: str, wrap_truth: bool) -> None:
    # Money, bold letters and lead-ins are wrappers or look like one already.
    plain = [p for p in PAIRS if not any(mark in p.prediction + p.truth for mark in "$*:选答")]
    plain = [p for p in plain if "answer is" not in p.prediction]
    assert len(plain) > 400

    def wrapped(pair: AnswerPair) -> tuple[str, list[str]]:
        if wrap_truth:
            return pair.prediction, [wrapper.format(pair.truth)]
        return wrapper.format(pair.prediction), [pair.truth]

    verdicts = verify_many([wrapped(pair) for pair in plain])
    changed = [p for p, verdict in zip(plain, verdicts, strict=True) if verdict != p.verdict]
    assert changed == []


SYMMETRIC = {"published", "number", "fraction", "sign", "scientific", "thousands", "percent"} | {
    *("unit", "chinese unit", "interval", "matrix", "parts", "radical", "polynomial"),
    *("function", "equation", "text"),
}


def test_which_side_is_the_truth_matters_only_for_sets_and_choices() -> None:
    pairs = [pair for pair in PAIRS if pair.kind in SYMMETRIC]
    assert len(pairs) > 400
    verdicts = verify_many([(pair.truth, [pair.prediction]) for pair in pairs])
    changed = [p for p, verdict in zip(pairs, verdicts, strict=True) if verdict != p.verdict]
    assert changed == []


names = st.sampled_from(["x", "y", "a", r"\theta", "x_1"])
small = st.integers(1, 20).map(str)
terms = st.recursive(
    st.one_of(names, small),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}+{pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: rf"{pair[0]} \cdot {pair[1]}"),
        st.tuples(inner, inner).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
        inner.map(lambda term: rf"\sqrt{{{term}}}"),
        inner.map(lambda term: rf"\sin({term})"),
    ),
    max_leaves=6,
)


@given(terms)
def test_every_formula_is_right_for_itself(term: str) -> None:
    assert verify(term, term) is Verdict.RIGHT


@given(terms, terms)
def test_sums_and_products_have_no_order(one: str, other: str) -> None:
    assert verify(f"{one} + {other}", f"{other} + {one}") is Verdict.RIGHT
    assert verify(f"({one})({other})", f"({other})({one})") is Verdict.RIGHT


@given(terms, terms, small)
def test_a_fraction_may_be_rescaled(top: str, bottom: str, factor: str) -> None:
    fraction = rf"\frac{{{top}}}{{{bottom}}}"
    scaled = rf"\frac{{{factor}({top})}}{{{factor}({bottom})}}"
    assert verify(scaled, fraction) is Verdict.RIGHT
    assert verify(fraction, scaled) is Verdict.RIGHT


@given(terms, small)
def test_a_formula_and_something_more_is_wrong(term: str, more: str) -> None:
    assert verify(f"{term} + {more}", term) is Verdict.WRONG
    assert verify(term, f"{term} + {more}") is Verdict.WRONG


@given(terms, terms, small)
def test_an_equation_may_be_rearranged_and_rescaled(left: str, right: str, factor: str) -> None:
    equation = f"{left} + 2z = {right}"
    assert verify(f"{right} = 2z + {left}", equation) is Verdict.RIGHT
    scaled = f"{factor}({left}) + {2 * int(factor)}z = {factor}({right})"
    assert verify(scaled, equation) is Verdict.RIGHT
    assert verify(f"{left} + 2z + 1 = {right}", equation) is Verdict.WRONG


@given(terms, terms)
def test_which_side_is_the_truth_does_not_matter_for_formulas(one: str, other: str) -> None:
    assert verify(one, other) is verify(other, one)


pieces = st.sampled_from(
    ["1", "2.5", ",", ";", "(", ")", "[", "{", "}", "$", "\\", "\\frac", "\\text{", "^", "=", " ",
     "A", "(B)", ".", "%", "cm", "/", "and", "-", "**", "x", "e9", "\N{DEGREE SIGN}", "(1)", "(2)"]
)  # fmt: skip


@given(st.lists(pieces, max_size=25).map("".join), st.lists(pieces, max_size=25).map("".join))
def test_any_two_texts_get_a_verdict(prediction: str, truth: str) -> None:
    verdict = verify(prediction, truth)
    assert (verdict is Verdict.UNVERIFIABLE) == (verify("7", truth) is Verdict.UNVERIFIABLE)


latex = st.sampled_from(
    ["1", "x", "+", "-", "*", "/", "=", "<", " ", "(", ")", "{", "}", "|", ",", "_", ".", "&",
     r"\frac", r"\sqrt", r"\sin", r"\log_2", r"\pi", r"\pm", r"\cup", r"\infty", r"\vec", r"\\",
     r"\text{", r"\left(", r"\right]", r"\begin{pmatrix}", r"\end{pmatrix}", " or ", "cm", "%"]
)  # fmt: skip


@given(st.lists(latex, max_size=20).map("".join), st.lists(latex, max_size=20).map("".join))
def test_any_two_scraps_of_latex_get_a_verdict(prediction: str, truth: str) -> None:
    verdict = verify(prediction, truth)
    assert (verdict is Verdict.UNVERIFIABLE) == (verify("7", truth) is Verdict.UNVERIFIABLE)


@given(st.text(), st.text())
def test_any_two_strings_get_a_verdict(prediction: str, truth: str) -> None:
    assert verify(prediction, truth) in Verdict


def seconds(work: Callable[[], object]) -> float:
    """Processor time, the least of three."""
    samples = []
    for _ in range(3):
        start = time.process_time()
        work()
        samples.append(time.process_time() - start)
    return min(samples)


@pytest.mark.parametrize(
    "piece",
    ["(", "1,", "1;", "(1)", "x=", "1<", "cm ", "- ", r"\boxed{", r"\frac{", r"\pm", " or ", "**",
     "$", "1/", "\N{UNION}<", "answer is "],
)  # fmt: skip
def test_reading_takes_time_like_the_square_of_the_length_at_most(piece: str) -> None:
    def read(length: int) -> None:
        read_answer(clean(piece * (length // len(piece))))

    assert seconds(lambda: read(4000)) < 3 * 4**2 * seconds(lambda: read(1000)) + 1e-3
