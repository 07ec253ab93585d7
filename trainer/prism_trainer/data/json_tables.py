"""JSON data files: one object per line, or one array of objects."""

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prism_api.errors import DataError
from prism_trainer.data.table import RawRow

_NOT_JSON = (ValueError, RecursionError)
"""What `json` raises; the last for brackets nested too deeply."""


class JsonLinesTable:
    """A file with one JSON object per line; only the lines' offsets are held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets = array("q", (offset for offset, _ in self._lines()))

    def __len__(self) -> int:
        return len(self._offsets)

    def row(self, index: int) -> RawRow:
        """One row as plain values."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offsets[index])
                line = file.readline()
        except OSError as error:
            raise _unreadable(self.path, error) from None
        return self._parsed(line, index)

    def rows(self) -> Iterator[RawRow]:
        """All rows in order, one pass over the file in bounded memory."""
        for index, (_, line) in enumerate(self._lines()):
            yield self._parsed(line, index)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Offset and content of every line that is not blank."""
        offset = 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if not line.isspace():
                        yield offset, line
                    offset += len(line)
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def _parsed(self, line: bytes, index: int) -> RawRow:
        try:
            value = json.loads(line)
        except _NOT_JSON as error:
            raise DataError(f"{self.path} row {index}: not JSON ({error}); mend the line") from None
        return _an_object(value, self.path, index)


class JsonTable:
    """A file that is one JSON array of objects; parsed once and held in memory whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = _array(path)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> RawRow:
        """One row as plain values."""
        return _an_object(self._rows[index], self.path, index)

    def rows(self) -> Iterator[RawRow]:
        """All rows in order."""
        for index in range(len(self)):
            yield self.row(index)


def _array(path: Path) -> list[Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from None
    except _NOT_JSON as error:
        problem = f"{path}: not one JSON value ({error})"
        raise DataError(f"{problem}; mend it, or name it .jsonl if each line is one") from None
    if not isinstance(value, list):
        raise DataError(f"{path}: holds a {type(value).__name__}; give an array of objects")
    return value


def _an_object(value: Any, path: Path, index: int) -> RawRow:
    if not isinstance(value, dict):
        raise DataError(f"{path} row {index}: is a {type(value).__name__}, not an object")
    return value


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error}); check the file and its permissions")
