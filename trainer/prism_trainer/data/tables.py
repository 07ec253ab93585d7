"""Opens a data file by its kind."""

from collections.abc import Callable
from os.path import isfile
from pathlib import Path

from prism_api.errors import DataError
from prism_api.uris import local_path
from prism_trainer.data.json_tables import JsonLinesTable, JsonTable
from prism_trainer.data.parquet import BatchCache, ParquetTable
from prism_trainer.data.table import Table

_READERS: dict[str, Callable[[Path, BatchCache], Table]] = {
    ".parquet": ParquetTable,
    ".jsonl": lambda path, _: JsonLinesTable(path),
    ".json": lambda path, _: JsonTable(path),
}


def open_table(uri: str, cache: BatchCache) -> Table:
    """Open a data file; a Parquet file's decoded batches are kept in `cache`.

    Raises DataError if it is missing, of an unknown kind, unreadable or empty.
    """
    path = local_path(uri)
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: unknown kind of data file; give one of {', '.join(_READERS)}")
    if not isfile(path):
        raise DataError(f"{path}: no such data file; check the uri {uri}")
    table = reader(path, cache)
    if len(table) == 0:
        raise DataError(f"{path}: has no rows; give a data set with at least one")
    return table
