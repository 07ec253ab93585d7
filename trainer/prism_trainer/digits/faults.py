"""How faulty a set of demonstrations turned out: measured on the texts, for `about.json`. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from prism_trainer.digits.questions import Digits
from prism_trainer.digits.scenes import Scene
from prism_trainer.rewards.response import parse_response


@dataclass(frozen=True)
class Faults:
    """Shares of what is wrong in demonstrations."""

    wrong_digits: float
    """Of all caption bullets, against the picture."""
    broken_format: float
    """Of all responses."""
    slips: float
    """Of the responses in the format: answers that contradict the response's own caption."""
    wrong_answers: float
    """Of the responses in the format: answers that are wrong for the picture."""


def measure_faults(shown: Sequence[tuple[Scene, str]]) -> Faults:
    """The faults of responses, each given with the scene it is about."""
    bullets = [
        read != digit
        for scene, text in shown
        for read, digit in zip(read_digits(text), scene.digits, strict=True)
    ]
    formed = [(scene, text) for scene, text in shown if has_format(text)]
    return Faults(
        wrong_digits=_share(bullets),
        broken_format=_share([not has_format(text) for _, text in shown]),
        slips=_share([_is_slip(scene, text) for scene, text in formed]),
        wrong_answers=_share([read_answer(text) != scene.answer for scene, text in formed]),
    )


def read_digits(response: str) -> Digits:
    """The digits that a response's bullet lines state, in the format or not."""
    return tuple(int(digit) for digit in re.findall(r"^- (\d)$", response, re.MULTILINE))


def read_answer(response: str) -> str:
    """The answer of a response in the format."""
    return response.split("<answer>")[1].split("</answer>")[0].strip()


def has_format(response: str) -> bool:
    """Whether it is the three blocks and nothing else."""
    return parse_response(response) is not None


def _is_slip(scene: Scene, response: str) -> bool:
    return read_answer(response) != scene.question.solve(read_digits(response))


def _share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 4)
