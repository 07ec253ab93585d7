"""Laws of the verifier on generated answers."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from prism_trainer.rewards.verifier import Verdict, verify

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


@given(letters, letters, numbers, numbers)
def test_letters_decide_over_texts(one: str, other: str, text: str, other_text: str) -> None:
    right = verify(f"({one}) {text}", f"({other}) {other_text}") is Verdict.RIGHT
    assert right == (one == other)


pieces = st.sampled_from(
    ["1", "2.5", ",", ";", "(", ")", "[", "{", "}", "$", "\\", "\\frac", "\\text{", "^", "=", " ",
     "A", "(B)", ".", "%", "cm", "/", "and", "-", "**", "x", "e9", "\N{DEGREE SIGN}", "(1)", "(2)"]
)  # fmt: skip


@given(st.lists(pieces, max_size=25).map("".join), st.lists(pieces, max_size=25).map("".join))
def test_any_two_texts_get_a_verdict(prediction: str, truth: str) -> None:
    verdict = verify(prediction, truth)
    assert (verdict is Verdict.UNVERIFIABLE) == (verify("7", truth) is Verdict.UNVERIFIABLE)


@given(st.text(), st.text())
def test_any_two_strings_get_a_verdict(prediction: str, truth: str) -> None:
    assert verify(prediction, truth) in Verdict
