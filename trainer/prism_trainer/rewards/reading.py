"""Reads a cleaned answer into a tree of quantities, collections, names, relations and texts."""

import re

from prism_trainer.rewards.answers import (
    MATRIX,
    PLUS_MINUS,
    ROW,
    UNION,
    Answer,
    Collection,
    Named,
    Quantity,
    Text,
)
from prism_trainer.rewards.cleaning import NEW_ROW, text_key
from prism_trainer.rewards.formulas import is_closed
from prism_trainer.rewards.parts import (
    is_enclosed,
    split_items,
    split_outside_brackets,
    split_parts,
)
from prism_trainer.rewards.quantities import read_quantity
from prism_trainer.rewards.relations import read_inequality, read_relation

_MAX_DEPTH = 6
"""Brackets nested deeper are text: a thousand of them must not exhaust the stack."""

_FUNCTIONS = r"\\?(?:sin|cos|tan|cot|log|ln|lg|exp|sqrt|abs)"
# A plain name only: from `2x = 6` or `x^2 = 9` the value of x does not follow without algebra.
_EQUATION = re.compile(
    rf"(?!{_FUNCTIONS}(?![a-zA-Z]))"
    r"((?:\N{ANGLE}|\N{WHITE UP-POINTING TRIANGLE}|\\)?\s?[^\W\d_][\w']*(?:\([^()=]*\))?"
    r"|\|[A-Z]{2}\||\\(?:overline|overrightarrow|vec|bar|hat|widehat)\{\w+\}|\([a-zA-Z](?:,\s*[a-zA-Z])+\))"
    r"\s*[=\N{ALMOST EQUAL TO}\N{ELEMENT OF}]\s*([^=\N{ALMOST EQUAL TO}<>!]+)"
)
_POINT = re.compile(r"([A-Z]['\d]?)\s?(\(.*\))")
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|cases)\}(.*)\\end\{\1\}")
_SET_BUILDER = re.compile(r"[^\W\d_]\s*[|:](.*)")
_OR = re.compile(r"\s+or\s+|\s*或\s*")


def read_answer(text: str, depth: int = 0) -> Answer:
    """What a cleaned text states; anything that is not understood is text."""
    if depth > _MAX_DEPTH:
        return Text(text_key(text))
    if matrix := _MATRIX.fullmatch(text):
        return _read_rows(matrix[1], matrix[2], depth)
    parts = split_parts(text)
    if len(parts) > 1:
        return Collection("", _read_all(parts, depth))
    if is_enclosed(text):
        return _read_enclosed(text, depth) or Text(text_key(text))
    return read_quantity(text) or _read_compound(text, depth) or Text(text_key(text))


def is_readable(answer: Answer) -> bool:
    """Whether nothing in an answer is LaTeX that was not understood."""
    match answer:
        case Text(key):
            return "\\" not in key
        case Named(value=value):
            return is_readable(value)
        case Collection(items=items):
            return all(map(is_readable, items))
    return True


def _read_all(texts: list[str], depth: int) -> tuple[Answer, ...]:
    return tuple(read_answer(text.strip(), depth + 1) for text in texts)


def _read_rows(kind: str, inner: str, depth: int) -> Answer:
    rows = [row for row in inner.split(NEW_ROW) if row.strip()]
    if kind == "cases":
        return Collection("", _read_all(rows, depth))
    cells = (_read_all(row.split("&"), depth) for row in rows)
    return Collection(MATRIX, tuple(Collection(ROW, items) for items in cells))


def _read_compound(text: str, depth: int) -> Answer | None:
    if equation := _EQUATION.fullmatch(text):
        value = read_answer(equation[2].strip(), depth + 1)
        solved = isinstance(value, Quantity) and is_closed(value.formula)
        return Named(text_key(equation[1]), value, None if solved else read_relation(text))
    if alternatives := _read_alternatives(text, depth):
        return alternatives
    if PLUS_MINUS in text:
        both = [_with_signs(text, "+", "-"), _with_signs(text, "-", "+")]
        return Collection(PLUS_MINUS, _read_all(both, depth))
    if interval := read_inequality(text):
        name, brackets, ends = interval
        return Named(text_key(name), Collection(brackets, _read_all(ends, depth)))
    return read_relation(text) or _read_point(text, depth)


def _with_signs(text: str, plus: str, minus: str) -> str:
    return text.replace(PLUS_MINUS, plus).replace("\N{MINUS-OR-PLUS SIGN}", minus)


def _read_alternatives(text: str, depth: int) -> Answer | None:
    """`A \N{UNION} B`, and `x = 1 or x = 2` for two solutions, which are a set."""
    sets = split_outside_brackets(text, UNION)
    if len(sets) > 1:
        return Collection(UNION, _read_all(sets, depth))
    pieces = _OR.split(text)
    if len(pieces) == 1:
        return None
    answers = _read_all(pieces, depth)
    if not all(isinstance(answer, Named | Quantity) for answer in answers):
        return None
    values = [answer.value for answer in answers if isinstance(answer, Named)]
    if values and all(isinstance(value, Collection) for value in values):
        return Collection(UNION, tuple(values))
    return Collection("{}", answers)


def _read_point(text: str, depth: int) -> Answer | None:
    point = _POINT.fullmatch(text)
    if point and is_enclosed(point[2]):
        # P(1, 2) is a point; f(2) and P(A) are not values.
        value = _read_enclosed(point[2], depth)
        return Named(text_key(point[1]), value) if isinstance(value, Collection) else None
    return None


def _read_enclosed(text: str, depth: int) -> Answer | None:
    brackets, inner = text[0] + text[-1], text[1:-1].strip()
    if brackets == "{}" and (condition := _SET_BUILDER.fullmatch(inner)):
        inner = condition[1].strip()
        described = read_answer(inner, depth + 1)
        return described if isinstance(described, Named | Collection) else None
    items = split_items(inner)
    if not inner or not all(items):
        return None
    if len(items) == 1 and brackets == "()":
        return read_answer(inner, depth + 1)
    return Collection(brackets, _read_all(items, depth))
