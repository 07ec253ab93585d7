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
        raise DataError(f"{origin}: column {column!r} is a {type(value).__name__}, not a list")
    return value


def text_of(raw: RawRow, column: str, origin: str) -> str:
    """The column's text, which is not blank."""
    value = raw.get(column)
    if not is_text(value) or not value.strip():
        raise DataError(f"{origin}: column {column!r} is missing, empty or not a text")
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
