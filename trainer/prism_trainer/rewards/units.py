"""Reads units: `cm`, `square metres`, `km/h`, `million dollars`; exact conversions."""

import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache

from prism_trainer.rewards.answers import Quantity, Unit
from prism_trainer.rewards.unit_table import UNITS, Entry

CURRENCIES = "$\N{EURO SIGN}\N{POUND SIGN}\N{YEN SIGN}"

_DEGREE = "\N{DEGREE SIGN}"
_PER = re.compile(r"/|\bper\b")
_TEMPERATURE = re.compile(
    rf"(?:degrees?|{_DEGREE})\s*([CF](?=\W|$)|celsius|fahrenheit)", re.IGNORECASE
)
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_FACTOR = re.compile(
    r"(?:(square|sq|cubic|cu)\.?\s+)?"
    rf"({_DEGREE}[CF]?|[^\W\d_]+|[%\N{{PER MILLE SIGN}}{CURRENCIES}])"
    r"(?:\^?(-?[1-9])(?!\d))?[\s*]*"
)
_NOUN = re.compile(r"(?![a-z]{1,3}$)[^\W\d_]{2,}(?:[ -][^\W\d_]{2,})*", re.IGNORECASE)
"""Two or three Latin letters alone are a product of variables rather than a noun."""


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Quantity | None:
    """One of the unit as a quantity: the number that it stands for (`million`) and the unit proper.

    A noun that is no unit is one of its own; signs, single letters and digits are none.
    """
    spelled = _TEMPERATURE.sub(lambda match: _DEGREE + match[1][0].upper(), text)
    spelled = spelled.replace("平方", "square ").replace("立方", "cubic ")
    over, *under = _PER.split(spelled)
    factors = _factors(over, 1)
    for piece in under:
        more = _factors(piece, -1)
        factors = factors + more if factors and more else []
    if factors:
        return _product(factors)
    if _NOUN.fullmatch(text):
        noun = ((text.casefold(), 1),)
        return Quantity(Fraction(1), Unit(Fraction(1), noun, omissible=False))
    return None


def _factors(text: str, direction: int) -> list[tuple[Entry, int]]:
    """The known units of a product with their powers; none if anything else is in the text."""
    text, position, factors = text.strip(), 0, []
    while position < len(text):
        match = _FACTOR.match(text, position)
        entry = _look_up(match[2]) if match else None
        if match is None or entry is None:
            return []
        power = int(match[3] or 1) * _POWERS.get(match[1], 1)
        factors.append((entry, direction * power))
        position = match.end()
    return factors


def _look_up(name: str) -> Entry | None:
    """Symbols are case-sensitive (mW, MW) unless only another case is known (KM, Metres)."""
    return UNITS.get(name) or (UNITS.get(name.lower()) if len(name) > 1 else None)


def _product(factors: list[tuple[Entry, int]]) -> Quantity:
    number, factor = Fraction(1), Fraction(1)
    powers: Counter[str] = Counter()
    for entry, power in factors:
        if not entry.dimension:
            number *= entry.factor**power
            continue
        factor *= entry.factor**power
        for base, base_power in entry.dimension.items():
            powers[base] += base_power * power
    dimension = tuple(sorted((base, power) for base, power in powers.items() if power))
    if not dimension:
        return Quantity(number * factor)
    return Quantity(number, Unit(factor, dimension))
