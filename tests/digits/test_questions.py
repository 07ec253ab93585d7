"""The table of questions: answers, derivations and slips."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_trainer.digits.questions import QUESTIONS, Digits, Question, wrong_answers

SUM, DIFFERENCE, LARGEST, SMALLEST, LAST, LARGER = QUESTIONS
digits_of_a_picture = st.lists(st.integers(0, 9), min_size=2, max_size=3).map(tuple)
any_question = st.sampled_from(QUESTIONS)


@pytest.mark.parametrize(
    ("question", "digits", "answer", "derivation"),
    [
        pytest.param(SUM, (3, 5, 2), "8", "The sum is 3 + 5 = 8.", id="sum of the first two"),
        pytest.param(SUM, (0, 0), "0", "The sum is 0 + 0 = 0.", id="sum of zeros"),
        pytest.param(
            DIFFERENCE, (3, 5, 9), "2", "The difference is 5 - 3 = 2.", id="difference of first two"
        ),
        pytest.param(DIFFERENCE, (7, 7), "0", "The difference is 7 - 7 = 0.", id="no difference"),
        pytest.param(LARGEST, (3, 9, 2), "9", "The largest of 3, 9, 2 is 9.", id="largest"),
        pytest.param(SMALLEST, (3, 9, 2), "2", "The smallest of 3, 9, 2 is 2.", id="smallest"),
        pytest.param(LAST, (3, 9), "9", "The digits are 3, 9, so the last is 9.", id="last"),
        pytest.param(LARGER, (8, 9, 2), "A", "A is 8, B is 2, so A is larger.", id="first larger"),
        pytest.param(LARGER, (1, 9), "B", "A is 1, B is 9, so B is larger.", id="last larger"),
    ],
)
def test_answers_and_derivations(
    question: Question, digits: Digits, answer: str, derivation: str
) -> None:
    assert question.solve(digits) == answer
    assert question.derive(digits, answer) == derivation


def test_questions_are_told_apart_by_their_text() -> None:
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS) == 6


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.text)
def test_only_equal_ends_make_a_question_unanswerable(question: Question) -> None:
    assert question.fits((4, 7, 2))
    assert question.fits((4, 7, 4)) == (question is not LARGER)


@given(any_question, digits_of_a_picture)
def test_a_derivation_ends_in_the_answer_it_is_given(question: Question, digits: Digits) -> None:
    for answer in (question.solve(digits), *wrong_answers(question.solve(digits))):
        assert answer in question.derive(digits, answer).split("so ")[-1]


@given(any_question, digits_of_a_picture)
def test_slips_are_wrong_and_of_the_same_kind(question: Question, digits: Digits) -> None:
    answer = question.solve(digits)
    slips = wrong_answers(answer)
    assert slips
    assert answer not in slips
    assert all(slip.isdigit() == answer.isdigit() for slip in slips)


@pytest.mark.parametrize(
    ("answer", "slips"),
    [("A", ("B",)), ("B", ("A",)), ("0", ("1", "2")), ("1", ("0", "2", "3"))],
)
def test_slips_never_fall_below_zero(answer: str, slips: tuple[str, ...]) -> None:
    assert wrong_answers(answer) == slips
