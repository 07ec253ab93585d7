"""Reads numbers exactly: integers, decimals, fractions, mixed numbers, powers of ten, units."""

import re
from dataclasses import replace
from fractions import Fraction

from prism_trainer.rewards.answers import Quantity
from prism_trainer.rewards.formulas import is_closed, parse_formula
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
_OPERAND = r"\s*(?:\{\s*([+-]?[\d.]+)\s*\}|(\d))"
_FRACTION = re.compile(rf"\\frac{_OPERAND}{_OPERAND}")
_REPEATING = re.compile(r"(\d+)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}")
# A unit of one letter stands apart: `2\sqrt{3} m`.
_MEASURE = re.compile(r"(.*[\d)}\N{GREEK SMALL LETTER PI}])(\s+\S.*|[^\W_]{2,}.*|%)")


def read_quantity(text: str) -> Quantity | None:
    """The quantity that a cleaned text is, exactly or as a formula, else None."""
    return _read_number(text) or _read_formula(text)


def _read_number(text: str) -> Quantity | None:
    typed = _REPEATING.sub(_plain_repeating, _FRACTION.sub(_plain_fraction, text)).strip()
    match = _QUANTITY.fullmatch(typed)
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


def _plain_fraction(match: re.Match[str]) -> str:
    """With a space before, so that a whole number in front makes a mixed number."""
    return f" {match[1] or match[2]}/{match[3] or match[4]}"


def _plain_repeating(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}` is 15/90."""
    whole, start, period = match.groups()
    top = int(whole + start + period) - int(whole + start)
    return f"{top}/{'9' * len(period)}{'0' * len(start)}"


def _magnitude(match: re.Match[str]) -> Fraction | None:
    if match["plain"]:
        return _exact(match["plain"])
    if match["exponent"]:
        return _exact(match["mantissa"] or "1") * Fraction(10) ** int(match["exponent"])
    bottom = _exact(match["bottom"])
    return _exact(match["whole"] or "0") + _exact(match["top"]) / bottom if bottom else None


def _exact(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _read_formula(text: str) -> Quantity | None:
    if measure := _read_measure(text):
        return measure
    formula = parse_formula(text)
    return Quantity(Fraction(1), formula=formula) if formula else None


def _read_measure(text: str) -> Quantity | None:
    match = _MEASURE.fullmatch(text)
    if match is None:
        return None
    formula, scaled = parse_formula(match[1]), read_unit(match[2].strip())
    if not formula or not is_closed(formula) or scaled is None:
        return None
    is_noun = scaled.unit is not None and not scaled.unit.omissible
    return None if is_noun else replace(scaled, formula=formula)
