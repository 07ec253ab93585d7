"""The table of answers whose verdicts are stated by hand: tests/rewards/answer_pairs.tsv."""

from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parents[1] / "rewards" / "answer_pairs.tsv"


@dataclass(frozen=True)
class AnswerPair:
    """A prediction, a truth and what a teacher says."""

    kind: str
    prediction: str
    truth: str
    verdict: str
    """`right`, `wrong` or `unverifiable`."""
    math_verify_differs: str = ""
    """Why math-verify says otherwise; empty where it agrees."""


def read_answer_pairs() -> list[AnswerPair]:
    """The rows of the table in order."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return [AnswerPair(*line.split("\t")) for line in lines if not line.startswith("# ")]
