"""The reward of one response: format and accuracy, weighted, and DAPO's overlong penalty."""

from collections.abc import Sequence
from dataclasses import dataclass

from prism_trainer.rewards.response import parse_response
from prism_trainer.rewards.verifier import Verdict, verify_many


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """What a right answer and the right format are worth (paper, hyper-parameter table)."""

    accuracy: float = 0.8
    format: float = 0.2


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one response and its parts."""

    total: float
    accuracy: float
    """1 if the answer is right, else 0."""
    format: float
    """1 if the response has the format, else 0."""
    verdict: Verdict
    """UNVERIFIABLE says that no truth is usable, or that the verifier failed: the caller leaves the
    whole group out."""


def score_many(
    samples: Sequence[tuple[str, Sequence[str]]], weights: RewardWeights
) -> list[Reward]:
    """The reward of each (response, truths); formulas are evaluated side by side.

    Weighted sum of accuracy and format; all 0 without the format (`mm_gad_no_llm`). The verdict on
    a row without a usable truth does not depend on the response.
    """
    responses = [parse_response(text) for text, _ in samples]
    answers = [response.answer if response else "" for response in responses]
    truths = [truths for _, truths in samples]
    verdicts = verify_many(list(zip(answers, truths, strict=True)))
    return [
        _reward(response is not None, verdict, weights)
        for response, verdict in zip(responses, verdicts, strict=True)
    ]


def score(text: str, truths: Sequence[str], weights: RewardWeights) -> Reward:
    """`score_many` of one response."""
    return score_many([(text, truths)], weights)[0]


def _reward(has_format: bool, verdict: Verdict, weights: RewardWeights) -> Reward:
    if not has_format:
        return Reward(total=0.0, accuracy=0.0, format=0.0, verdict=verdict)
    accuracy = float(verdict is Verdict.RIGHT)
    total = weights.accuracy * accuracy + weights.format
    return Reward(total=total, accuracy=accuracy, format=1.0, verdict=verdict)


def overlong_penalty(length: int, max_length: int, buffer: int, factor: float) -> float:
    """DAPO's soft punishment: 0 up to `max_length - buffer` tokens, then falling by `factor`.

    It is `-factor` at `max_length`.
    """
    room = max_length - buffer - length
    return min(room / buffer * factor, 0.0)
