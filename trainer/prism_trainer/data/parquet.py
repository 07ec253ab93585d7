"""Parquet files in any order: decoded batches are kept while they fit a budget of bytes."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prism_api.errors import DataError
from prism_trainer.data.table import RawRow

_UNREADABLE = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises for a damaged file; names that are not UTF-8 give the last."""
_BATCH_ROWS = 64
"""Small, so that batches with large images stay far below Arrow's limit of 2 GiB per column."""
_READ_BYTES = 1 << 20
"""One read of one column; without it a row group's compressed columns are held whole."""

BatchKey = tuple[Path, int, int]


class BatchCache:
    """Decoded batches of several files; beyond the budget the least recently used is dropped."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._batches: OrderedDict[BatchKey, pa.RecordBatch] = OrderedDict()

    def get(self, key: BatchKey) -> pa.RecordBatch | None:
        """The batch if it is still there."""
        if key in self._batches:
            self._batches.move_to_end(key)
        return self._batches.get(key)

    def put(self, key: BatchKey, batch: pa.RecordBatch) -> None:
        """Keep a batch as the most recently used."""
        self._drop(key)
        self._batches[key] = batch
        self.bytes += batch.get_total_buffer_size()
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._batches)))

    def _drop(self, key: BatchKey) -> None:
        if key in self._batches:
            self.bytes -= self._batches.pop(key).get_total_buffer_size()


class ParquetTable:
    """A Parquet file.

    The unit of decoding is the row group, of which every batch is kept that fits the cache. A group
    larger than the cache is decoded anew, up to the row in question, for nearly every row.
    """

    def __init__(self, path: Path, cache: BatchCache) -> None:
        self.path, self._cache = path, cache
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES)
        except _UNREADABLE as error:
            raise DataError(
                f"{path}: not a readable Parquet file ({error}); write it again"
            ) from None
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        if sum(sizes) != metadata.num_rows or min(sizes, default=0) < 0:
            raise DataError(f"{path}: its row counts contradict each other; write it again")
        self._starts: list[int] = list(accumulate(sizes, initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, index: int) -> RawRow:
        """One row as plain values."""
        group = bisect_right(self._starts, index) - 1
        number, offset = divmod(index - self._starts[group], _BATCH_ROWS)
        batch = self._cache.get((self.path, group, number))
        if batch is None:
            batch = self._decode(group, number)
        (row,) = self._plain(batch.slice(offset, 1), index)
        return row

    def rows(self) -> Iterator[RawRow]:
        """All rows in order, one pass over the file in bounded memory; nothing of it is cached."""
        index = 0
        for group in range(len(self._starts) - 1):
            for batch in self._batches(group):
                yield from self._plain(batch, index)
                index += len(batch)

    def _decode(self, group: int, wanted: int) -> pa.RecordBatch:
        """Decode a group into the cache, but not so far that the wanted batch would leave it."""
        found, size = None, 0
        for number, batch in enumerate(self._batches(group)):
            if number >= wanted:
                size += batch.get_total_buffer_size()
            if found is not None and size > self._cache.max_bytes:
                break
            found = batch if number == wanted else found
            self._cache.put((self.path, group, number), batch)
        return found

    def _batches(self, group: int) -> Iterator[pa.RecordBatch]:
        """Batches of _BATCH_ROWS rows, the last one of what is left; raises DataError if not."""
        first, end = self._starts[group], self._starts[group + 1]
        start = first
        try:
            for batch in self._file.iter_batches(_BATCH_ROWS, [group], use_threads=False):
                batch.validate(full=True)  # a flipped bit can leave offsets that point anywhere
                if len(batch) != min(_BATCH_ROWS, end - start):
                    raise pa.ArrowInvalid(f"{len(batch)} rows in a batch")
                yield batch
                start += len(batch)
            if start != end:
                raise pa.ArrowInvalid(f"{start - first} rows instead of {end - first}")
        except _UNREADABLE as error:
            raise self._damaged(first, end - 1, error) from None

    def _plain(self, batch: pa.RecordBatch, first: int) -> list[RawRow]:
        try:
            rows: list[RawRow] = batch.to_pylist()
        except _UNREADABLE as error:
            raise self._damaged(first, first + len(batch) - 1, error) from None
        return rows

    def _damaged(self, first: int, last: int, error: Exception) -> DataError:
        where = f"{self.path} rows {first} to {last}"
        return DataError(f"{where}: are damaged ({error}); write them again")
