"""Data files as sequences of plain rows: Parquet and JSON lines."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from prism_api.errors import DataError
from prism_api.uris import local_path

RawRow = dict[str, Any]
_UNREADABLE = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises for a damaged file; names that are not UTF-8 give the last."""


class Table(Protocol):
    """Rows of one file, readable in any order."""

    path: Path

    def __len__(self) -> int: ...

    def row(self, index: int) -> RawRow:
        """One row as plain values."""


class ParquetTable:
    """A Parquet file; row groups are read when needed and the newest is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
        except _UNREADABLE as error:
            raise DataError(
                f"{path}: not a readable Parquet file ({error}); write it again"
            ) from None
        groups = [
            self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)
        ]
        if sum(groups) != self._file.metadata.num_rows or min(groups, default=0) < 0:
            raise DataError(f"{path}: its row counts contradict each other; write it again")
        self._starts: list[int] = [sum(groups[:i]) for i in range(len(groups) + 1)]
        self._cached: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, index: int) -> RawRow:
        """One row as plain values."""
        group = next(i for i in range(len(self._starts)) if self._starts[i + 1] > index)
        if self._cached is None or self._cached[0] != group:
            self._cached = (group, self._read(group))
        try:
            rows: list[RawRow] = self._cached[1].slice(index - self._starts[group], 1).to_pylist()
        except _UNREADABLE as error:
            raise DataError(f"{self.path} row {index}: is damaged ({error})") from None
        return rows[0]

    def _read(self, group: int) -> pa.Table:
        first, end = self._starts[group], self._starts[group + 1]
        try:
            table = self._file.read_row_group(group)
            table.validate(full=True)  # a flipped bit can leave offsets that point anywhere
            if len(table) != end - first:
                raise pa.ArrowInvalid(f"{len(table)} rows instead of {end - first}")
        except _UNREADABLE as error:
            raise DataError(
                f"{self.path} rows {first} to {end - 1}: are damaged ({error}); write them again"
            ) from None
        return table


class JsonLinesTable:
    """A file with one JSON object per line; only the lines' offsets are held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets = list(self._line_offsets())

    def _line_offsets(self) -> Iterator[int]:
        offset = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield offset
                offset += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def row(self, index: int) -> RawRow:
        """One row as plain values."""
        with self.path.open("rb") as file:
            file.seek(self._offsets[index])
            line = file.readline()
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{self.path} row {index}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{self.path} row {index}: is a {type(row).__name__}, not an object")
        return row


_READERS: dict[str, Callable[[Path], Table]] = {".parquet": ParquetTable, ".jsonl": JsonLinesTable}


def open_table(uri: str) -> Table:
    """Open a data file; raises DataError if it is missing, of an unknown kind, damaged or empty."""
    path = local_path(uri)
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: unknown kind of data file; give one of {', '.join(_READERS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such data file; check the uri {uri}")
    table = reader(path)
    if len(table) == 0:
        raise DataError(f"{path}: has no rows; give a data set with at least one")
    return table
