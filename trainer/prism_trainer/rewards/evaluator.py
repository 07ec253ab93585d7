"""What formulas are worth at fixed points, to 250 digits."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from mpmath import MPContext

POINTS = 12

_Number: TypeAlias = Any
"""An mpf or mpc; mpmath has no types."""

_MP = MPContext()  # of its own: the precision of others stays as it is
_MP.dps = 300
_DIGITS = 250
_ROUNDING = _MP.mpf("1e-200")
_LARGEST_EXPONENT = 10**17
"""In bits; what is larger is no answer, and no Decimal."""
_RANGES = ((0, 1), (1, 8), (-4, 4))
"""Points in turn: where roots of x and 1 - x are real, larger ones, and of both signs."""


def evaluate(formula: str) -> list[tuple[str, str] | None]:
    """Real and imaginary part at each point, None where undefined; one point for a number.

    The formula is in the notation of `formulas`.
    """
    tokens = formula.split()
    count = POINTS if any(token.startswith("'") for token in tokens) else 1
    return [_value_at(tokens, point) for point in range(count)]


def _value_at(tokens: Sequence[str], point: int) -> tuple[str, str] | None:
    stack: list[_Number] = []
    try:
        for token in tokens:
            _apply(token, stack, point)
        value = _MP.mpmathify(stack.pop())
        if not _MP.isfinite(value) or _MP.mag(value) > _LARGEST_EXPONENT:
            return None
        return _MP.nstr(value.real, _DIGITS), _MP.nstr(value.imag, _DIGITS)
    except (ArithmeticError, ValueError, TypeError, _MP.NoConvergence):
        return None


def _apply(token: str, stack: list[_Number], point: int) -> None:
    if operation := _BINARY.get(token):
        right, left = stack.pop(), stack.pop()
        stack.append(operation(left, right))
    elif function := _UNARY.get(token):
        stack.append(function(stack.pop()))
    elif token.startswith("'"):
        stack.append(_coordinate(token, point))
    else:
        stack.append(_CONSTANTS[token] if token in _CONSTANTS else _MP.mpf(token))


def _coordinate(symbol: str, point: int) -> _Number:
    """The value of a symbol at a point: the same in every formula and process."""
    digest = hashlib.blake2b(f"{symbol} {point}".encode(), digest_size=8).digest()
    low, high = _RANGES[point % len(_RANGES)]
    return low + (high - low) * _MP.mpf(int.from_bytes(digest)) / 2**64


def _root(index: _Number, radicand: _Number) -> _Number:
    """The real root of a negative number if the index is odd, as in school."""
    is_odd = _MP.isint(index) and int(index) % 2 == 1
    if is_odd and _MP.im(radicand) == 0 and _MP.re(radicand) < 0:
        return -_MP.power(-radicand, 1 / index)
    return _MP.power(radicand, 1 / index)


def _step(function: Callable[[_Number], _Number]) -> Callable[[_Number], _Number]:
    """A step function that takes 3 - 1e-299 for 3."""
    return lambda x: function(_MP.nint(x) if _MP.almosteq(x, _MP.nint(x), _ROUNDING) else x)


_UNARY: Mapping[str, Callable[[_Number], _Number]] = {
    "neg": lambda x: -x,
    "!": _MP.factorial,
    "abs": abs,
    "floor": _step(_MP.floor),
    "ceil": _step(_MP.ceil),
    "ln": _MP.log,
    "exp": _MP.exp,
    "sin": _MP.sin,
    "cos": _MP.cos,
    "tan": _MP.tan,
    "cot": _MP.cot,
    "sec": _MP.sec,
    "csc": _MP.csc,
    "sinh": _MP.sinh,
    "cosh": _MP.cosh,
    "tanh": _MP.tanh,
    "arcsin": _MP.asin,
    "arccos": _MP.acos,
    "arctan": _MP.atan,
}
_BINARY: Mapping[str, Callable[[_Number, _Number], _Number]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / y,
    "^": _MP.power,
    "root": _root,
    "log": _MP.log,
    "binom": _MP.binomial,
}
_CONSTANTS: Mapping[str, _Number] = {"pi": +_MP.pi, "e": +_MP.e, "i": _MP.mpc(0, 1)}
