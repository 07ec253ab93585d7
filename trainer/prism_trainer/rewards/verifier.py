"""Compares a predicted answer with the true one by rules.

The rules and their order are those of the reference code's `mm_gad_no_llm`; where that accepts
wrong answers (units, brackets and decimal points that are dropped before the comparison, letters
overruled by an option's text) or refuses right ones (1,234; LaTeX), the answer itself is read
instead. Formulas are evaluated by worker processes. docs/verifier.md has the rules.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from prism_trainer.rewards.answers import Answer, Text, formulas_of
from prism_trainer.rewards.choices import Choice, read_choice, read_letters, read_predicted_choice
from prism_trainer.rewards.cleaning import clean, text_key
from prism_trainer.rewards.matching import Matcher
from prism_trainer.rewards.pool import evaluate
from prism_trainer.rewards.reading import is_readable, read_answer
from prism_trainer.rewards.values import Evaluation, Failure

TOO_LONG = 1024
"""Characters from which on an answer is not looked at (`mm_gad_no_llm`)."""

_NO_TRUTH = "__EMPTY__"
"""How the reference data writes that there is no equivalent answer."""

Evaluator = Callable[[Collection[str]], Mapping[str, Evaluation]]


class Verdict(StrEnum):
    """What the verifier says about a prediction."""

    RIGHT = "right"
    WRONG = "wrong"
    UNVERIFIABLE = "unverifiable"
    """The truth is unusable, or the verifier failed: nothing was learned about the prediction."""


@dataclass(frozen=True, slots=True)
class _Truth:
    text: str
    letters: str
    choice: Choice | None
    answer: Answer
    formulas: tuple[str, ...]
    """Those that may be too costly to evaluate."""


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A prediction against one truth, as far as text alone decides."""

    settled: Verdict | None
    truth: _Truth | None = None
    candidates: tuple[Answer, ...] = ()
    """What the prediction may state, if nothing is settled."""

    def formulas(self) -> list[str]:
        """What has to be evaluated for a verdict."""
        if self.truth is None:
            return []
        undecided = (*self.candidates, self.truth.answer) if self.settled is None else ()
        return [*self.truth.formulas, *(f for answer in undecided for f in formulas_of(answer))]

    def verdict(self, evaluations: Mapping[str, Evaluation]) -> Verdict | None:
        """The verdict, or None if the verifier failed."""
        outcomes = [evaluations[formula] for formula in self.formulas()]
        if self.truth and Failure.TOO_COSTLY in map(evaluations.get, self.truth.formulas):
            return Verdict.UNVERIFIABLE
        if Failure.VERIFIER_FAILED in outcomes:
            return None
        if self.settled or self.truth is None:
            return self.settled
        matcher, truth = Matcher(evaluations), self.truth.answer
        return _verdict(any(matcher.same(answer, truth) for answer in self.candidates))


def verify_many(
    samples: Sequence[tuple[str, Sequence[str]]], evaluator: Evaluator = evaluate
) -> list[Verdict]:
    """The verdict on each (prediction, truths), formulas being evaluated side by side.

    RIGHT if any truth says so; UNVERIFIABLE if none of them is usable or the verifier failed. A
    prediction that is empty, too long, too costly or not understood is WRONG, never UNVERIFIABLE.
    """
    rows = [
        [_compare(_cut(prediction), _cut(truth)) for truth in truths]
        for prediction, truths in samples
    ]
    formulas = {f: None for row in rows for comparison in row for f in comparison.formulas()}
    evaluations = evaluator(list(formulas))
    return [_combined({c.verdict(evaluations) for c in row}) for row in rows]


def verify_any(prediction: str, truths: Sequence[str]) -> Verdict:
    """`verify_many` of one sample."""
    return verify_many([(prediction, truths)])[0]


def verify(prediction: str, truth: str) -> Verdict:
    """`verify_many` of one sample with one truth."""
    return verify_any(prediction, [truth])


def _cut(text: str) -> str:
    """At most as much of an answer as shows that it is too long, so that caches stay small."""
    return text.strip()[:TOO_LONG]


def _combined(verdicts: set[Verdict | None]) -> Verdict:
    for verdict in (Verdict.RIGHT, None, Verdict.WRONG):
        if verdict in verdicts:
            return verdict or Verdict.UNVERIFIABLE
    return Verdict.UNVERIFIABLE


def _verdict(right: bool) -> Verdict:
    return Verdict.RIGHT if right else Verdict.WRONG


@lru_cache(maxsize=4096)
def _compare(prediction: str, truth: str) -> _Comparison:
    """The rules in order."""
    if truth.isdecimal() and prediction.isdecimal() and len(truth) < TOO_LONG > len(prediction):
        return _Comparison(_verdict(prediction == truth or int(prediction) == int(truth)))
    known = _read_truth(truth)
    if known is None:
        return _Comparison(Verdict.UNVERIFIABLE)
    if not prediction or len(prediction) >= TOO_LONG:
        return _Comparison(Verdict.WRONG, known)
    text = clean(prediction)
    if prediction == truth or text == known.text:
        return _Comparison(Verdict.RIGHT, known)
    if known.letters and (letters := read_letters(text)):
        return _Comparison(_verdict(letters == known.letters), known)
    if known.choice and (choice := read_predicted_choice(text)):
        return _Comparison(_verdict(choice.letter == known.choice.letter), known)
    return _compare_answers(text, known)


def _compare_answers(text: str, truth: _Truth) -> _Comparison:
    candidates = [read_answer(text)]
    labelled = None if truth.choice else read_choice(text)
    if labelled and labelled.text:
        candidates.append(read_answer(labelled.text))
    if Text in map(type, (*candidates, truth.answer)) and text_key(text) == text_key(truth.text):
        return _Comparison(Verdict.RIGHT, truth)
    verdicts = [Matcher({}).same(candidate, truth.answer) for candidate in candidates]
    if None in verdicts and True not in verdicts:
        return _Comparison(None, truth, tuple(candidates))
    return _Comparison(_verdict(True in verdicts), truth)


@lru_cache(maxsize=4096)
def _read_truth(truth: str) -> _Truth | None:
    """What a truth states, or None if it is unusable: empty, too long or LaTeX that is broken."""
    if len(truth) >= TOO_LONG or truth == _NO_TRUTH or not (text := clean(truth)):
        return None
    letters, choice = read_letters(text), read_choice(text)
    answer = read_answer(choice.text if choice and choice.text else text)
    if not letters and not choice and not is_readable(answer):
        return None
    costly = tuple(formula for formula in formulas_of(answer) if " " in formula)
    return _Truth(text, letters, choice, answer, costly)
