"""Decides whether two read answers are the same answer."""

from collections.abc import Sequence
from fractions import Fraction

from prism_trainer.rewards.answers import Answer, Collection, Named, Quantity, Text

RELATIVE_TOLERANCE = Fraction(1, 10**6)

_BRACKETS_MAY_BE_LEFT_OUT = frozenset({"()", "{}"})
"""Not `[]` and half-open ones: leaving them out would hide which ends belong to an interval."""


def same(prediction: Answer, truth: Answer) -> bool:
    """Whether a prediction is the true answer; a name given on one side only is ignored."""
    match prediction, truth:
        case Named(name, value), Named(true_name, true_value):
            return name == true_name and same(value, true_value)
        case Named(_, value), _:
            return same(value, truth)
        case _, Named(_, true_value):
            return same(prediction, true_value)
        case (Collection(), _) | (_, Collection()):
            return _same_collection(_as_collection(prediction), _as_collection(truth))
        case Quantity(), Quantity():
            return _same_quantity(prediction, truth)
        case Text(key), Text(true_key):
            return key == true_key
    return False


def _as_collection(answer: Answer) -> Collection:
    return answer if isinstance(answer, Collection) else Collection("", (answer,))


def _same_collection(prediction: Collection, truth: Collection) -> bool:
    kinds = {prediction.brackets, truth.brackets}
    stated = kinds - {""}
    if len(stated) > 1 or ("" in kinds and not stated <= _BRACKETS_MAY_BE_LEFT_OUT):
        return False
    if len(prediction.items) != len(truth.items):
        return False
    # Only the truth may free the order: else braces around a guess would do it.
    if truth.brackets == "{}":
        return _same_in_any_order(prediction.items, truth.items)
    return all(map(same, prediction.items, truth.items))


def _same_in_any_order(predictions: Sequence[Answer], truths: Sequence[Answer]) -> bool:
    missing = list(truths)
    for prediction in predictions:
        found = next((i for i, truth in enumerate(missing) if same(prediction, truth)), None)
        if found is None:
            return False
        del missing[found]
    return True


def _same_quantity(prediction: Quantity, truth: Quantity) -> bool:
    unit, true_unit = prediction.unit, truth.unit
    if unit is None or true_unit is None:
        omitted = unit or true_unit
        omissible = omitted is None or omitted.omissible
        return omissible and _close(prediction.value, truth.value)
    if unit.dimension != true_unit.dimension:
        return False
    return _close(prediction.value * (unit.factor / true_unit.factor), truth.value)


def _close(prediction: Fraction, truth: Fraction) -> bool:
    """Equal, or within the tolerance unless both are whole: 10000001 is not 10000000."""
    if prediction == truth:
        return True
    if prediction.denominator == truth.denominator == 1:
        return False
    return abs(prediction - truth) < RELATIVE_TOLERANCE * abs(truth)
