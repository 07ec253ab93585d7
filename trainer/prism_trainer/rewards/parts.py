"""Splits an answer into its parts: `(1) 3 (2) 4`, `3; 4` and `3, 4`, but not `1,234`."""

import re

OPENING, CLOSING = (
    "([{\N{MATHEMATICAL LEFT ANGLE BRACKET}",
    ")]}\N{MATHEMATICAL RIGHT ANGLE BRACKET}",
)

THOUSANDS = r"[1-9]\d{0,2}(?:,\d{3})+"
"""Groups of three digits without spaces; `1, 234` and `0,500` are lists."""

_MARKER = re.compile(r"(?:^|(?<=[\s;,]))\((\d{1,2}|[A-Ja-j])\)")
_THOUSANDS = re.compile(rf"(?<![\d.,]){THOUSANDS}(?!,?\d)")
_AND = re.compile(r"(?:\s*,)?\s+and\s+|\s*和\s*")
_ENDS = " .,;"


def split_parts(text: str) -> list[str]:
    """The parts of an answer in order; one part if it cannot be split."""
    if text.startswith("(") and (parts := _split_at_markers(text)):
        return parts
    if ";" in text and len(parts := split_outside_brackets(text, ";")) > 1:
        return parts
    text = _AND.sub(", ", text)
    if "," not in text:
        return [text]
    groups = {match.start(): match.end() for match in _THOUSANDS.finditer(text)}
    return split_outside_brackets(text, ",", groups)


def split_items(text: str) -> list[str]:
    """The items between two brackets, where every comma separates: `1,234` is two items."""
    if ";" in text and len(parts := split_outside_brackets(text, ";")) > 1:
        return parts
    return split_outside_brackets(_AND.sub(", ", text), ",")


def is_enclosed(text: str) -> bool:
    """Whether the bracket that opens at the first character closes at the last one."""
    if len(text) < 2 or text[0] not in OPENING or text[-1] not in CLOSING:
        return False
    depth = 0
    for position, character in enumerate(text):
        depth += (character in OPENING) - (character in CLOSING)
        if depth == 0:
            return position == len(text) - 1
    return False


def _split_at_markers(text: str) -> list[str]:
    """Parts behind `(1)`, `(2)`, ... or `(a)`, `(b)`, ...; none if one of them is empty."""
    markers = list(_MARKER.finditer(text))
    labels = [marker[1].lower() for marker in markers]
    counted = [str(n) for n in range(1, len(labels) + 1)]
    if len(labels) < 2 or labels not in (counted, list("abcdefghij"[: len(labels)])):
        return []
    ends = [marker.start() for marker in markers[1:]] + [len(text)]
    parts = [
        text[marker.end() : end].strip(_ENDS) for marker, end in zip(markers, ends, strict=True)
    ]
    return parts if all(parts) else []


def split_outside_brackets(
    text: str, separator: str, skipped: dict[int, int] | None = None
) -> list[str]:
    """Parts between separators outside brackets and `skipped` spans; one if a part is empty."""
    parts, start, depth, resume = [], 0, 0, 0
    for position, character in enumerate(text):
        if skipped and position in skipped:
            resume = skipped[position]
        if position < resume:
            continue
        if character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth = max(depth - 1, 0)
        elif character == separator and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    parts.append(text[start:].strip())
    return parts if all(parts) else [text]
