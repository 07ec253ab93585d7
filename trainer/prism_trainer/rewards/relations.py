"""Reads equations and inequalities: of one variable as intervals, others as left minus right."""

import re

from prism_trainer.rewards.answers import Relation
from prism_trainer.rewards.formulas import parse_formula

_SIGN = re.compile(r"\s*(<=|>=|!=|<|>|=|\N{ALMOST EQUAL TO})\s*")
_NAME = re.compile(r"[^\W\d_](?:_\w)?")
_MIRRORED = {"<": ">", "<=": ">="}


def read_relation(text: str) -> Relation | None:
    """The relation between two formulas that a cleaned text is, else None."""
    pieces = _SIGN.split(text)
    if len(pieces) != 3:
        return None
    left, right = parse_formula(pieces[0]), parse_formula(pieces[2])
    if not left or not right:
        return None
    sign = pieces[1].replace("\N{ALMOST EQUAL TO}", "=")
    if sign in _MIRRORED:
        return Relation(_MIRRORED[sign], f"{right} {left} -")
    return Relation(sign, f"{left} {right} -")


def read_inequality(text: str) -> tuple[str, str, list[str]] | None:
    """Variable, brackets and ends of the interval: `1 < x <= 2` gives `x`, `(]`, `1` and `2`."""
    pieces = _SIGN.split(text)
    signs = pieces[1::2]
    if not all(pieces) or len({sign[0] for sign in signs}) != 1 or signs[0][0] not in "<>":
        return None
    if signs[0][0] == ">":
        pieces.reverse()
    match pieces:
        case [low, first, name, last, high] if _NAME.fullmatch(name):
            return name, _brackets(first, last), [low, high]
        case [name, sign, high] if _NAME.fullmatch(name):
            return name, _brackets("<", sign), ["-\N{INFINITY}", high]
        case [low, sign, name] if _NAME.fullmatch(name):
            return name, _brackets(sign, "<"), [low, "\N{INFINITY}"]
    return None


def _brackets(low: str, high: str) -> str:
    return ("[" if "=" in low else "(") + ("]" if "=" in high else ")")
