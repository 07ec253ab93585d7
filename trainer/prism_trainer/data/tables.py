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
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path}: not a readable Parquet file ({error}); write it again"
            ) from None
        groups = [
            self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)
        ]
        self._starts: list[int] = [sum(groups[:i]) for i in range(len(groups) + 1)]
        self._cached: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, index: int) -> RawRow:
        """One row as plain values."""
        group = next(i for i in range(len(self._starts)) if self._starts[i + 1] > index)
        if self._cached is None or self._cached[0] != group:
            self._cached = (group, self._read(group))
        rows: list[RawRow] = self._cached[1].slice(index - self._starts[group], 1).to_pylist()
        return rows[0]

    def _read(self, group: int) -> pa.Table:
        try:
            return self._file.read_row_group(group)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: row group {group} is damaged ({error})") from None


class JsonLinesTable:
    """A file with one JSON object per line; only the lines' offsets are held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self._offsets = list(self._line_offsets())

    def _line_offsets(self) -> Iterator[int]:
        offset = 0
        for line in self._file:
            if line.strip():
                yield offset
            offset += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def row(self, index: int) -> RawRow:
        """One row as plain values."""
        self._file.seek(self._offsets[index])
        try:
            row = json.loads(self._file.readline())
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
