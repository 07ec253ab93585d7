"""Compares a predicted answer with the true one by rules.

The rules and their order are those of the reference code's `mm_gad_no_llm`; where that accepts
wrong answers (units, brackets and decimal points that are dropped before the comparison, letters
overruled by an option's text) or refuses right ones (1,234), the answer itself is read instead.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from prism_trainer.rewards.answers import Answer
from prism_trainer.rewards.choices import Choice, read_choice, read_letters, read_predicted_choice
from prism_trainer.rewards.cleaning import clean
from prism_trainer.rewards.matching import same
from prism_trainer.rewards.reading import read_answer

TOO_LONG = 1024
"""Characters from which on an answer is not looked at (`mm_gad_no_llm`)."""

_NO_TRUTH = "__EMPTY__"
"""How the reference data writes that there is no equivalent answer."""


class Verdict(StrEnum):
    """What the verifier says about a prediction."""

    RIGHT = "right"
    WRONG = "wrong"
    UNVERIFIABLE = "unverifiable"
    """The truth is unusable: nothing was learned about the prediction."""


@dataclass(frozen=True, slots=True)
class _Truth:
    text: str
    letters: str
    choice: Choice | None
    answer: Answer


def verify(prediction: str, truth: str) -> Verdict:
    """Whether a prediction is the true answer (reference code `mm_gad_no_llm`, corrected).

    A prediction that is empty, too long or not understood is WRONG, never UNVERIFIABLE.
    """
    prediction, truth = prediction.strip(), truth.strip()
    if truth.isdecimal() and prediction.isdecimal() and len(truth) < TOO_LONG > len(prediction):
        return _verdict(prediction == truth or int(prediction) == int(truth))
    known = _read_truth(truth)
    if known is None:
        return Verdict.UNVERIFIABLE
    if not prediction or len(prediction) >= TOO_LONG:
        return Verdict.WRONG
    return _verdict(prediction == truth or _matches(clean(prediction), known))


def verify_any(prediction: str, truths: Iterable[str]) -> Verdict:
    """RIGHT if any truth says so; UNVERIFIABLE if none of them is usable."""
    verdicts = {verify(prediction, truth) for truth in truths}
    for verdict in (Verdict.RIGHT, Verdict.WRONG):
        if verdict in verdicts:
            return verdict
    return Verdict.UNVERIFIABLE


def _verdict(right: bool) -> Verdict:
    return Verdict.RIGHT if right else Verdict.WRONG


@lru_cache(maxsize=4096)
def _read_truth(truth: str) -> _Truth | None:
    """Cached, because a group of rollouts shares its truth."""
    if len(truth) >= TOO_LONG or truth == _NO_TRUTH or not (text := clean(truth)):
        return None
    choice = read_choice(text)
    answer = read_answer(choice.text if choice and choice.text else text)
    return _Truth(text, read_letters(text), choice, answer)


def _matches(prediction: str, truth: _Truth) -> bool:
    """The rules in order; symbolic comparison belongs behind the last one."""
    if prediction == truth.text:
        return True
    if truth.letters and (letters := read_letters(prediction)):
        return letters == truth.letters
    if truth.choice and (choice := read_predicted_choice(prediction)):
        return choice.letter == truth.choice.letter
    if same(read_answer(prediction), truth.answer):
        return True
    if truth.choice or not (labelled := read_choice(prediction)) or not labelled.text:
        return False
    return same(read_answer(labelled.text), truth.answer)
