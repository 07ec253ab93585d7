"""Compares what formulas are worth at fixed points.

Two formulas that agree to 200 digits at a dozen points of no special form are the same function
(Schwartz and Zippel). Where one of them is complex, like `ln(xy)` at negative x, they are compared
at the other points only, as in school; but if they are nowhere both real, then as complex numbers.
"""

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from enum import StrEnum
from fractions import Fraction
from typing import TypeAlias

Value: TypeAlias = tuple[Decimal, Decimal]
"""Real and imaginary part."""
Values: TypeAlias = tuple[Value | None, ...]
"""One value per point, None where it is undefined; a single one if the formula is a number."""


class Failure(StrEnum):
    """Why a formula has no values."""

    TOO_COSTLY = "too costly"
    """It needs more time or memory than an answer may."""
    VERIFIER_FAILED = "verifier failed"
    """No worker could be run: nothing was learned about the formula."""


Evaluation: TypeAlias = Values | Failure

ONE: Values = ((Decimal(1), Decimal(0)),)

_EXACT = Decimal("1e-200")
"""Relative; so that 2^100 + 1 is not 2^100."""
_ZERO = Decimal("1e-250")
"""Less is rounding: 300 digits were computed."""
_FEWEST_POINTS = 3
# Numbers may be as large as 9^9^9; nothing here may raise.
_CONTEXT = Context(prec=260, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


def equal(
    left: Values, right: Values, scales: tuple[Fraction, Fraction], tolerance: Fraction | None
) -> bool:
    """Whether left and right, each times its scale, are the same; exactly without a tolerance."""
    with localcontext(_CONTEXT):
        factors = [_decimal(scale) for scale in scales]
        closeness = _decimal(tolerance) if tolerance else _EXACT
        pairs = _common_points(left, right)
        return bool(pairs) and all(
            _close(_times(a, factors[0]), _times(b, factors[1]), closeness) for a, b in pairs
        )


def proportional(left: Values, right: Values, positive: bool) -> bool:
    """Whether left is a constant (positive, if so asked) times right, and neither is zero."""
    with localcontext(_CONTEXT):
        pairs = _common_points(left, right)
        if len(pairs) < _FEWEST_POINTS or any(_size(v) < _ZERO for pair in pairs for v in pair):
            return False
        a, b = pairs[0]
        constant = all(_close(_product(a, d), _product(b, c), _EXACT) for c, d in pairs)
        return constant and (not positive or (_is_real(a) and _is_real(b) and a[0] * b[0] > 0))


def _common_points(left: Values, right: Values) -> list[tuple[Value, Value]]:
    """Pairs of values where both are defined, and real if there are such points."""
    count = max(len(left), len(right))
    lefts, rights = _stretched(left, count), _stretched(right, count)
    pairs = [(a, b) for a, b in zip(lefts, rights, strict=True) if a and b]
    return [(a, b) for a, b in pairs if _is_real(a) and _is_real(b)] or pairs


def _stretched(values: Values, count: int) -> Values:
    return values * count if len(values) == 1 else values


def _is_real(value: Value) -> bool:
    return abs(value[1]) <= _EXACT * abs(value[0]) or abs(value[1]) < _ZERO


def _times(value: Value, factor: Decimal) -> Value:
    return value[0] * factor, value[1] * factor


def _close(left: Value, right: Value, closeness: Decimal) -> bool:
    distance = _size((left[0] - right[0], left[1] - right[1]))
    size = max(_size(left), _size(right))
    return distance <= closeness * size or size < _ZERO


def _size(value: Value) -> Decimal:
    return abs(value[0]) + abs(value[1])


def _product(left: Value, right: Value) -> Value:
    real = left[0] * right[0] - left[1] * right[1]
    return real, left[0] * right[1] + left[1] * right[0]


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)
