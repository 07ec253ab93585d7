"""What every kind of data file offers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

RawRow = dict[str, Any]


class Table(Protocol):
    """Rows of one file, readable in any order."""

    path: Path

    def __len__(self) -> int: ...

    def row(self, index: int) -> RawRow:
        """One row as plain values."""

    def rows(self) -> Iterator[RawRow]:
        """All rows in order, one pass over the file in bounded memory."""
