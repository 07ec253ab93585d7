"""Columns of a raw row by type; errors name the row and the column."""

from typing import Any, TypeGuard

from prism_api.errors import DataError
from prism_trainer.data.table import RawRow


def list_of(raw: RawRow, column: str, origin: str) -> list[Any]:
    """The column's list, empty if the column is missing or null."""
    value = raw.get(column)
    if value is None:
        return []
    if not isinstance(value, list):
        kind = type(value).__name__
        raise DataError(f"{origin}: column {column!r} is a {kind}, not a list; mend it")
    return value


def text_of(raw: RawRow, column: str, origin: str) -> str:
    """The column's text, which is not blank."""
    value = raw.get(column)
    if column not in raw:
        there = f"has {', '.join(raw)}" if raw else "has none"
        raise DataError(f"{origin}: column {column!r} is missing ({there}); add or rename it")
    if not is_text(value):
        kind = "null" if value is None else type(value).__name__
        raise DataError(f"{origin}: column {column!r} is no text ({kind}); mend or remove the row")
    if not value.strip():
        raise DataError(f"{origin}: column {column!r} is empty; mend or remove the row")
    return value


def optional_text_of(raw: RawRow, column: str, origin: str) -> str | None:
    """The column's text, None if the column is missing or null."""
    return None if raw.get(column) is None else text_of(raw, column, origin)


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that can be written as UTF-8: JSON can hold halves of characters,
    on which tokenizers fail."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
