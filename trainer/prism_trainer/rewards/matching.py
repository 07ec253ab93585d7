"""Decides whether two read answers are the same answer.

Verdicts are True, False or None: only the values of formulas can tell, and they are not known yet.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from prism_trainer.rewards.answers import (
    PLUS_MINUS,
    UNION,
    Answer,
    Collection,
    Named,
    Quantity,
    Relation,
    Text,
)
from prism_trainer.rewards.formulas import is_decimal
from prism_trainer.rewards.values import ONE, Evaluation, Failure, equal, proportional

RELATIVE_TOLERANCE = Fraction(1, 10**6)

_BRACKETS_MAY_BE_LEFT_OUT = frozenset({"()", "{}"})
"""Not `[]` and half-open ones: leaving them out would hide which ends belong to an interval."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """Compares answers by what is known about their formulas."""

    evaluations: Mapping[str, Evaluation]
    """Formulas that are missing here are not known yet."""

    def same(self, prediction: Answer, truth: Answer) -> bool | None:
        """Whether a prediction is the true answer; a name given on one side only is ignored."""
        match prediction, truth:
            case Named(), Named():
                return self._same_named(prediction, truth)
            case (Relation(), Named(_, _, other)) if other:
                return self._same_relation(prediction, other)
            case (Named(_, _, other), Relation()) if other:
                return self._same_relation(other, truth)
            case Named(_, value), _:
                return self.same(value, truth)
            case _, Named(_, true_value):
                return self.same(prediction, true_value)
            case (Collection(), _) | (_, Collection()):
                return self._same_collection(_as_collection(prediction), _as_collection(truth))
            case Quantity(), Quantity():
                return self._same_quantity(prediction, truth)
            case Relation(), Relation():
                return self._same_relation(prediction, truth)
            case Text(key), Text(true_key):
                return key == true_key
        return False

    def _same_named(self, prediction: Named, truth: Named) -> bool | None:
        if prediction.name == truth.name:
            return self.same(prediction.value, truth.value)
        if prediction.relation and truth.relation:
            return self._same_relation(prediction.relation, truth.relation)
        return False

    def _same_collection(self, prediction: Collection, truth: Collection) -> bool | None:
        kinds = {prediction.brackets, truth.brackets}
        stated = {"{}" if kind == PLUS_MINUS else kind for kind in kinds} - {""}
        if len(stated) > 1 or ("" in kinds and not stated <= _BRACKETS_MAY_BE_LEFT_OUT):
            return False
        if len(prediction.items) != len(truth.items):
            return False
        if _is_unordered(prediction, truth):
            return self._same_in_any_order(prediction.items, truth.items)
        return _all(map(self.same, prediction.items, truth.items))

    def _same_in_any_order(
        self, predictions: Sequence[Answer], truths: Sequence[Answer]
    ) -> bool | None:
        missing = list(truths)
        for prediction in predictions:
            verdicts = [self.same(prediction, truth) for truth in missing]
            if True in verdicts:
                del missing[verdicts.index(True)]
            elif None not in verdicts:
                return False
        return None if missing else True

    def _same_quantity(self, prediction: Quantity, truth: Quantity) -> bool | None:
        unit, true_unit = prediction.unit, truth.unit
        if unit is None or true_unit is None:
            omitted = unit or true_unit
            omissible = omitted is None or omitted.omissible
            return omissible and self._same_number(prediction, truth, Fraction(1))
        if unit.dimension != true_unit.dimension:
            return False
        return self._same_number(prediction, truth, unit.factor / true_unit.factor)

    def _same_number(
        self, prediction: Quantity, truth: Quantity, conversion: Fraction
    ) -> bool | None:
        value = prediction.value * conversion
        if prediction.formula == truth.formula and _close(value, truth.value):
            return True
        if not prediction.formula and not truth.formula:
            return False
        left, right = self._values(prediction.formula), self._values(truth.formula)
        if left is None or right is None:
            return None
        if isinstance(left, Failure) or isinstance(right, Failure):
            return False
        rounded = _may_be_rounded(prediction) or _may_be_rounded(truth)
        return equal(left, right, (value, truth.value), RELATIVE_TOLERANCE if rounded else None)

    def _same_relation(self, prediction: Relation, truth: Relation) -> bool | None:
        if prediction.sign != truth.sign:
            return False
        if prediction.difference == truth.difference:
            return True
        left, right = self._values(prediction.difference), self._values(truth.difference)
        if left is None or right is None:
            return None
        if isinstance(left, Failure) or isinstance(right, Failure):
            return False
        return proportional(left, right, positive=truth.sign in (">", ">="))

    def _values(self, formula: str) -> Evaluation | None:
        return self.evaluations.get(formula) if formula else ONE


def _as_collection(answer: Answer) -> Collection:
    return answer if isinstance(answer, Collection) else Collection("", (answer,))


def _is_unordered(prediction: Collection, truth: Collection) -> bool:
    """Only the truth may free the order: else braces around a guess would do it.

    But names say which value is meant, and both signs are one answer.
    """
    if truth.brackets in ("{}", PLUS_MINUS, UNION) or prediction.brackets == PLUS_MINUS:
        return True
    items = prediction.items + truth.items
    names = {item.name for item in items if isinstance(item, Named)}
    return all(isinstance(item, Named) for item in items) and len(names) == len(truth.items)


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    """The conjunction of verdicts: one that is False decides."""
    undecided = False
    for verdict in verdicts:
        if verdict is False:
            return False
        undecided |= verdict is None
    return None if undecided else True


def _may_be_rounded(quantity: Quantity) -> bool:
    """Whether a quantity is a decimal fraction: `0.3333333` may stand for 1/3."""
    if quantity.formula:
        return is_decimal(quantity.formula)
    rest = quantity.value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1 and quantity.value.denominator != 1


def _close(prediction: Fraction, truth: Fraction) -> bool:
    """Equal, or within the tolerance unless both are whole: 10000001 is not 10000000."""
    if prediction == truth:
        return True
    if prediction.denominator == truth.denominator == 1:
        return False
    return abs(prediction - truth) < RELATIVE_TOLERANCE * abs(truth)
