"""Reads a cleaned answer into a tree of quantities, collections, names and texts."""

import re

from prism_trainer.rewards.answers import Answer, Collection, Named, Text
from prism_trainer.rewards.cleaning import text_key
from prism_trainer.rewards.parts import is_enclosed, split_items, split_parts
from prism_trainer.rewards.quantities import read_quantity

_MAX_DEPTH = 6
"""Brackets nested deeper are text: a thousand of them must not exhaust the stack."""

_FUNCTIONS = r"\\?(?:sin|cos|tan|cot|log|ln|lg|exp|sqrt|abs)"
# A plain name only: from `2x = 6` or `x^2 = 9` the value of x does not follow without algebra.
_EQUATION = re.compile(
    rf"(?!{_FUNCTIONS}(?![a-zA-Z]))"
    r"((?:\N{ANGLE}|\N{WHITE UP-POINTING TRIANGLE}|\\)?\s?[^\W\d_][\w']*(?:\([^()=]*\))?)"
    r"\s*[=\N{ALMOST EQUAL TO}]\s*([^=\N{ALMOST EQUAL TO}<>!]+)"
)
_POINT = re.compile(r"([A-Z]['\d]?)\s?(\(.*\))")


def read_answer(text: str, depth: int = 0) -> Answer:
    """What a cleaned answer states; anything that is not understood is text."""
    if depth > _MAX_DEPTH:
        return Text(text_key(text))
    parts = split_parts(text)
    if len(parts) > 1:
        return Collection("", tuple(read_answer(part, depth + 1) for part in parts))
    return read_quantity(text) or _read_compound(text, depth) or Text(text_key(text))


def _read_compound(text: str, depth: int) -> Answer | None:
    if is_enclosed(text):
        return _read_enclosed(text, depth)
    if equation := _EQUATION.fullmatch(text):
        return Named(text_key(equation[1]), read_answer(equation[2].strip(), depth + 1))
    point = _POINT.fullmatch(text)
    if point and is_enclosed(point[2]):
        # P(1, 2) is a point; f(2) and P(A) are not values.
        value = _read_enclosed(point[2], depth)
        return Named(text_key(point[1]), value) if isinstance(value, Collection) else None
    return None


def _read_enclosed(text: str, depth: int) -> Answer | None:
    brackets, inner = text[0] + text[-1], text[1:-1].strip()
    items = split_items(inner)
    if not inner or not all(items):
        return None
    if len(items) == 1 and brackets == "()":
        return read_answer(inner, depth + 1)
    return Collection(brackets, tuple(read_answer(item, depth + 1) for item in items))
