"""Reads numbers exactly: integers, decimals, fractions, mixed numbers, powers of ten, units."""

import re
from dataclasses import replace
from fractions import Fraction

from prism_trainer.rewards.answers import Quantity
from prism_trainer.rewards.parts import THOUSANDS
from prism_trainer.rewards.units import CURRENCIES, read_unit

_NUMBER = rf"(?:(?:{THOUSANDS}|\d+)(?:\.\d+)?|\.\d+)"
# Exponents have three digits at most: an exact 1e999999999 would not fit into memory.
_QUANTITY = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<currency>[{CURRENCIES}]?)\s*"
    rf"(?:(?:(?P<mantissa>{_NUMBER})\s*[*x]\s*)?10\s*\^\s*(?P<exponent>[+-]?\d{{1,3}})(?!\d)"
    rf"|(?:(?P<whole>\d+)\s+)?(?P<top>{_NUMBER})\s*/\s*(?P<bottom>[+-]?{_NUMBER})"
    rf"|(?P<plain>{_NUMBER}(?:[eE][+-]?\d{{1,3}}(?![\w.]))?))"
    r"(?P<unit>.*)"
)


def read_quantity(text: str) -> Quantity | None:
    """The quantity that a cleaned text is, else None."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    value = _magnitude(match)
    if value is None:
        return None
    if match["sign"] == "-":
        value = -value
    unit_text = f"{match['unit'].strip()} {match['currency']}".strip()
    if not unit_text:
        return Quantity(value)
    scaled = read_unit(unit_text)
    if scaled is None:
        return None
    return replace(scaled, value=value * scaled.value)


def _magnitude(match: re.Match[str]) -> Fraction | None:
    if match["plain"]:
        return _exact(match["plain"])
    if match["exponent"]:
        return _exact(match["mantissa"] or "1") * Fraction(10) ** int(match["exponent"])
    bottom = _exact(match["bottom"])
    return _exact(match["whole"] or "0") + _exact(match["top"]) / bottom if bottom else None


def _exact(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))
