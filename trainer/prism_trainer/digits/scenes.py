"""One question about one picture: what every row of every data set is made of. Pure."""

from dataclasses import dataclass

import numpy as np

from prism_trainer.digits.images import DigitSet, compose_png
from prism_trainer.digits.questions import QUESTIONS, Digits, Question


@dataclass(frozen=True)
class Scene:
    """A picture of digits, what it shows, and a question about it."""

    id: str
    question: Question
    digits: Digits
    png: bytes

    @property
    def answer(self) -> str:
        """The right answer."""
        return self.question.solve(self.digits)

    @property
    def user_turn(self) -> dict[str, str]:
        """The prompt's only message."""
        return {"role": "user", "content": f"<image>{self.question.text}"}

    @property
    def images(self) -> list[dict[str, bytes | None]]:
        """The picture as Parquet embeds it."""
        return [{"bytes": self.png, "path": None}]


def draw_scene(
    scene_id: str, digit_set: DigitSet, rng: np.random.Generator, *, practice: bool
) -> Scene:
    """A random question about two or three random digits for which it has exactly one answer."""
    shares = np.array([q.practice if practice else 1 for q in QUESTIONS])
    question = QUESTIONS[rng.choice(len(QUESTIONS), p=shares / shares.sum())]
    count = int(rng.integers(2, 4))
    while True:
        chosen = digit_set.pick(rng.choice(len(digit_set), size=count, replace=False))
        digits = tuple(int(label) for label in chosen.labels)
        if question.fits(digits):
            return Scene(scene_id, question, digits, compose_png(chosen.pixels))
