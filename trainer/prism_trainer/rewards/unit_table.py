"""The units that the verifier knows, by symbol and by word.

Base units: metre, gram, second, ampere, mole, kelvin, degree, radian and one for each thing that is
not converted. Temperatures have no common base: their zero points differ, so 0 C is not 32 F here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Entry:
    """A unit: its size in base units, and their powers; without powers it is a plain number."""

    factor: Fraction
    dimension: Mapping[str, int]


def _entry(factor: int | str, **dimension: int) -> Entry:
    return Entry(Fraction(factor), dimension)


_MU, _OMEGA = "\N{GREEK SMALL LETTER MU}", "\N{GREEK CAPITAL LETTER OMEGA}"
_PREFIXES = {
    "G": ("giga", Fraction(10**9)),
    "M": ("mega", Fraction(10**6)),
    "k": ("kilo", Fraction(10**3)),
    "d": ("deci", Fraction(1, 10)),
    "c": ("centi", Fraction(1, 100)),
    "m": ("milli", Fraction(1, 10**3)),
    _MU: ("micro", Fraction(1, 10**6)),
    "u": ("micro", Fraction(1, 10**6)),
    "n": ("nano", Fraction(1, 10**9)),
}
_METRIC = (
    ("m", ("metre", "meter"), _entry(1, m=1)),
    ("g", ("gram",), _entry(1, g=1)),
    ("s", ("second",), _entry(1, s=1)),
    ("L", ("litre", "liter"), _entry("1/1000", m=3)),
    ("l", (), _entry("1/1000", m=3)),
    ("N", ("newton",), _entry(1000, g=1, m=1, s=-2)),
    ("J", ("joule",), _entry(1000, g=1, m=2, s=-2)),
    ("W", ("watt",), _entry(1000, g=1, m=2, s=-3)),
    ("Wh", (), _entry(3600000, g=1, m=2, s=-2)),
    ("Pa", ("pascal",), _entry(1000, g=1, m=-1, s=-2)),
    ("Hz", ("hertz",), _entry(1, s=-1)),
    ("A", ("ampere", "amp"), _entry(1, A=1)),
    ("C", ("coulomb",), _entry(1, A=1, s=1)),
    ("V", ("volt",), _entry(1000, g=1, m=2, s=-3, A=-1)),
    (_OMEGA, ("ohm",), _entry(1000, g=1, m=2, s=-3, A=-2)),
    ("mol", ("mole",), _entry(1, mol=1)),
    ("cal", ("calorie",), _entry(4184, g=1, m=2, s=-2)),
)

_CUSTOMARY = {
    "in inch inches": _entry("0.0254", m=1),
    "ft foot feet": _entry("0.3048", m=1),
    "yd yard yards": _entry("0.9144", m=1),
    "mi mile miles": _entry("1609.344", m=1),
    "mph": _entry("0.44704", m=1, s=-1),
    "kph kmh": _entry("5/18", m=1, s=-1),
    "lb lbs pound pounds": _entry("453.59237", g=1),
    "oz ounce ounces": _entry("28.349523125", g=1),
    "tonne tonnes": _entry(10**6, g=1),
    "gal gallon gallons": _entry("0.003785411784", m=3),
    "cc": _entry("1/1000000", m=3),
    "hectare hectares": _entry(10**4, m=2),
    "sec secs": _entry(1, s=1),
    "min mins minute minutes": _entry(60, s=1),
    "h hr hrs hour hours": _entry(3600, s=1),
    "day days": _entry(86400, s=1),
    "week weeks": _entry(604800, s=1),
    "month months": _entry(1, month=1),
    "year years": _entry(12, month=1),
    "\N{DEGREE SIGN} degree degrees deg": _entry(1, degree=1),
    "rad radian radians": _entry(1, radian=1),
    "K kelvin kelvins": _entry(1, kelvin=1),
    "\N{DEGREE SIGN}C": _entry(1, celsius=1),
    "\N{DEGREE SIGN}F": _entry(1, fahrenheit=1),
    "$ usd dollar dollars": _entry(1, dollar=1),
    "cent cents": _entry("1/100", dollar=1),
    "\N{EURO SIGN} eur euro euros": _entry(1, euro=1),
    "\N{POUND SIGN} gbp": _entry(1, sterling=1),
    "\N{YEN SIGN} yen jpy": _entry(1, yen=1),
    "yuan rmb cny": _entry(1, yuan=1),
    "unit units": _entry(1, unit=1),
    "person persons people": _entry(1, person=1),
    "item items": _entry(1, item=1),
    "piece pieces": _entry(1, piece=1),
    "time times": _entry(1, time=1),
}

_NUMBERS = {
    "% percent": _entry("1/100"),
    "\N{PER MILLE SIGN}": _entry("1/1000"),
    "hundred": _entry(100),
    "thousand": _entry(10**3),
    "million": _entry(10**6),
    "billion": _entry(10**9),
    "trillion": _entry(10**12),
    "万": _entry(10**4),
    "亿": _entry(10**8),
}

_CHINESE = {
    "mm": "毫米", "cm": "厘米", "dm": "分米", "m": "米", "km": "千米 公里",
    "mg": "毫克", "g": "克", "kg": "千克 公斤", "tonne": "吨",
    "mL": "毫升", "L": "升", "s": "秒", "min": "分钟", "h": "小时", "day": "天", "year": "年",
    "degree": "度", "yuan": "元", "person": "人", "item": "个", "time": "次",
}  # fmt: skip


def _table() -> dict[str, Entry]:
    table: dict[str, Entry] = {}
    for symbol, words, entry in _METRIC:
        table |= dict.fromkeys([symbol, *words, *(f"{word}s" for word in words)], entry)
        for prefix, (spelled, size) in _PREFIXES.items():
            names = [prefix + symbol, *(spelled + w + s for w in words for s in ("", "s"))]
            table |= dict.fromkeys(names, Entry(entry.factor * size, entry.dimension))
    for names_text, entry in (_CUSTOMARY | _NUMBERS).items():
        table |= dict.fromkeys(names_text.split(), entry)
    for known, names_text in _CHINESE.items():
        table |= dict.fromkeys(names_text.split(), table[known])
    return table


UNITS: Mapping[str, Entry] = _table()
