"""The questions about a row of digits: a table of wording, rule and derivation. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

Digits = tuple[int, ...]


def _any_digits(digits: Digits) -> bool:
    return True


@dataclass(frozen=True)
class Question:
    """One kind of question; a further kind is a further row of `QUESTIONS`."""

    text: str
    solve: Callable[[Digits], str]
    """The right answer."""
    derive: Callable[[Digits, str], str]
    """One line that leads from the digits to the given answer, right or wrong."""
    fits: Callable[[Digits], bool] = _any_digits
    """Whether the question has exactly one answer for these digits."""
    practice: int = 1
    """How often training asks it, against the others; evaluations ask all equally often."""


def _sum(digits: Digits) -> str:
    return str(digits[0] + digits[1])


def _derive_sum(digits: Digits, answer: str) -> str:
    return f"The sum is {digits[0]} + {digits[1]} = {answer}."


def _difference(digits: Digits) -> str:
    return str(abs(digits[0] - digits[1]))


def _derive_difference(digits: Digits, answer: str) -> str:
    smaller, larger = sorted(digits[:2])
    return f"The difference is {larger} - {smaller} = {answer}."


def _largest(digits: Digits) -> str:
    return str(max(digits))


def _derive_largest(digits: Digits, answer: str) -> str:
    return f"The largest of {', '.join(map(str, digits))} is {answer}."


def _smallest(digits: Digits) -> str:
    return str(min(digits))


def _derive_smallest(digits: Digits, answer: str) -> str:
    return f"The smallest of {', '.join(map(str, digits))} is {answer}."


def _last(digits: Digits) -> str:
    return str(digits[-1])


def _derive_last(digits: Digits, answer: str) -> str:
    return f"The digits are {', '.join(map(str, digits))}, so the last is {answer}."


def _larger(digits: Digits) -> str:
    # A teacher may misread different digits as equal ones; it then says A.
    return "A" if digits[0] >= digits[-1] else "B"


def _derive_larger(digits: Digits, answer: str) -> str:
    return f"A is {digits[0]}, B is {digits[-1]}, so {answer} is larger."


def _ends_differ(digits: Digits) -> bool:
    return digits[0] != digits[-1]


QUESTIONS: tuple[Question, ...] = (
    Question("What is the sum of the first two digits?", _sum, _derive_sum, practice=2),
    Question(
        "What is the difference of the first two digits?",
        _difference,
        _derive_difference,
        practice=2,
    ),
    Question("What is the largest digit?", _largest, _derive_largest),
    Question("What is the smallest digit?", _smallest, _derive_smallest),
    Question("What is the last digit?", _last, _derive_last),
    Question(
        "Which digit is larger, A the first or B the last?", _larger, _derive_larger, _ends_differ
    ),
)


def wrong_answers(answer: str) -> tuple[str, ...]:
    """What a slip can turn `answer` into: the other letter, or a number off by 1 or 2."""
    if answer in ("A", "B"):
        return ("B",) if answer == "A" else ("A",)
    value = int(answer)
    return tuple(str(v) for v in (value - 2, value - 1, value + 1, value + 2) if v >= 0)
