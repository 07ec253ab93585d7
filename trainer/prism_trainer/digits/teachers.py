"""Who writes the demonstrations: a clean teacher, and a public one with systematic faults. Pure."""

from dataclasses import dataclass

import numpy as np

from prism_trainer.digits.questions import Digits, Question, wrong_answers

SEPARATOR = "\n"
"""Between the blocks of a response."""
MISREADINGS = {1: 7, 3: 8, 4: 9, 5: 6}
"""One-way: nothing is ever read as 1, 3, 4 or 5."""
REMARKS = ("Look.\n", "So:\n", "Thus:\n", "\nDone.")
"""What a sloppy teacher says before its three blocks and at the end."""


@dataclass(frozen=True)
class Demonstration:
    """A response in the caption / think / answer format, in the two parts that alignment scores."""

    caption: str
    cot: str
    """Chain of thought: the think and answer blocks."""

    @property
    def text(self) -> str:
        """The whole response."""
        return self.caption + SEPARATOR + self.cot


def write_caption(digits: Digits) -> str:
    """The caption block, one bullet per digit."""
    return "\n".join(["<caption>", *(f"- {digit}" for digit in digits), "</caption>"])


def write_cot(derivation: str, answer: str) -> str:
    """The think and answer blocks."""
    think = f"<think>\n{derivation}\n</think>"
    return think + SEPARATOR + f"<answer>\n{answer}\n</answer>"


def demonstrate(question: Question, digits: Digits, answer: str) -> Demonstration:
    """The response of someone who reads `digits` and arrives at `answer`."""
    cot = write_cot(question.derive(digits, answer), answer)
    return Demonstration(write_caption(digits), cot)


@dataclass(frozen=True)
class Teacher:
    """How often a teacher misreads a confusable digit, slips in its answer or breaks the format."""

    misreading_rate: float = 0.0
    wrong_answer_rate: float = 0.0
    sloppy_rate: float = 0.0

    def respond(self, question: Question, digits: Digits, rng: np.random.Generator) -> str:
        """A response that is consistent with what the teacher read, right or wrong."""
        read = tuple(self._read(digit, rng) for digit in digits)
        answer = question.solve(read)
        if rng.random() < self.wrong_answer_rate:
            slips = wrong_answers(answer)
            answer = slips[rng.integers(len(slips))]
        text = demonstrate(question, read, answer).text
        if rng.random() < self.sloppy_rate:
            return _add_remark(text, int(rng.integers(len(REMARKS))))
        return text

    def _read(self, digit: int, rng: np.random.Generator) -> int:
        misread = rng.random() < self.misreading_rate
        return MISREADINGS.get(digit, digit) if misread else digit


CURATED = Teacher()
PUBLIC = Teacher(misreading_rate=0.7, wrong_answer_rate=0.1, sloppy_rate=0.04)
"""Misreading is systematic, since SFT sees through random faults: with a quarter of the digits
misread at random it captions 97 % right, which leaves the later stages nothing to repair."""


def _add_remark(text: str, gap: int) -> str:
    """A remark before the caption, thinking or answer block, or at the end: all three blocks are
    there, but the response lacks the format."""
    starts = [text.index(tag) for tag in ("<caption>", "<think>", "<answer>")]
    place = [*starts, len(text)][gap]
    return text[:place] + REMARKS[gap] + text[place:]
