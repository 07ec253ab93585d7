"""Parquet files in any order: rows, the cache's budget, and what one pass over a file costs."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_api.errors import DataError
from prism_trainer.data.parquet import BatchCache, ParquetTable
from row_builders import Row, write_parquet

ROWS: list[Row] = [
    {"id": i, "images": [{"bytes": random.Random(i).randbytes(100 + i), "path": None}]}
    for i in range(300)
]


def in_groups(folder: Path, group: int, name: str = "a.parquet") -> Path:
    return write_parquet(folder / name, ROWS, row_group_size=group)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """One file per size of row groups: smaller than a batch, several batches, all in one."""
    folder = tmp_path_factory.mktemp("files")
    return {group: in_groups(folder, group, f"{group}.parquet") for group in (7, 64, 130, 300)}


@settings(max_examples=60, deadline=None)
@given(
    group=st.sampled_from([7, 64, 130, 300]),
    max_bytes=st.sampled_from([0, 1, 30_000, 60_000, 1 << 30]),
    order=st.lists(st.integers(0, 299), min_size=1, max_size=30),
)
def test_rows_do_not_depend_on_groups_order_or_cache(
    files: dict[int, Path], group: int, max_bytes: int, order: list[int]
) -> None:
    cache = BatchCache(max_bytes)
    table = ParquetTable(files[group], cache)

    for index in order:
        assert table.row(index) == ROWS[index]
        assert cache.bytes <= max_bytes


def test_a_pass_gives_every_row_in_order(files: dict[int, Path]) -> None:
    for path in files.values():
        assert list(ParquetTable(path, BatchCache(0)).rows()) == ROWS


def test_groups_that_fit_are_decoded_once(tmp_path: Path) -> None:
    path = in_groups(tmp_path, 100)
    table = ParquetTable(path, BatchCache(1 << 30))
    table.row(5), table.row(250)
    path.write_bytes(b"")  # whatever is not in the cache is lost

    for index in (0, 299, 99, 200, 5):
        assert table.row(index) == ROWS[index]
    with pytest.raises(DataError, match="rows 100 to 199: are damaged"):
        table.row(150)


def test_files_share_the_budget_and_the_least_recently_used_goes(tmp_path: Path) -> None:
    first, second = in_groups(tmp_path, 64, "a.parquet"), in_groups(tmp_path, 64, "b.parquet")
    one = BatchCache(1 << 30)
    ParquetTable(first, one).row(0)
    cache = BatchCache(int(3.9 * one.bytes))  # three batches of 64 rows; later ones are larger
    a, b = ParquetTable(first, cache), ParquetTable(second, cache)
    a.row(0), b.row(0), a.row(70), a.row(1), b.row(70)
    first.write_bytes(b"")
    second.write_bytes(b"")

    assert 2 * one.bytes < cache.bytes <= cache.max_bytes
    assert (a.row(2), a.row(71), b.row(71)) == (ROWS[2], ROWS[71], ROWS[71])
    with pytest.raises(DataError, match=r"b\.parquet rows 0 to 63: are damaged"):
        b.row(0)


def test_a_group_beyond_the_budget_is_kept_from_the_wanted_row_on(tmp_path: Path) -> None:
    path = in_groups(tmp_path, 300)
    whole = BatchCache(1 << 30)
    ParquetTable(path, whole).row(0)
    table = ParquetTable(path, BatchCache(whole.bytes // 2))
    table.row(70)
    path.write_bytes(b"")

    assert [table.row(i) for i in range(70, 128)] == ROWS[70:128]
    with pytest.raises(DataError, match="rows 0 to 299: are damaged"):
        table.row(299)


def test_a_pass_does_not_push_anything_out_of_the_cache(tmp_path: Path) -> None:
    path = in_groups(tmp_path, 64)
    one = BatchCache(1 << 30)
    ParquetTable(path, one).row(0)
    cache = BatchCache(one.bytes)
    table = ParquetTable(path, cache)
    table.row(3)

    assert len(list(table.rows())) == 300
    path.write_bytes(b"")

    assert cache.bytes == one.bytes
    assert table.row(4) == ROWS[4]


def test_a_pass_over_one_large_row_group_holds_a_small_part_of_it(tmp_path: Path) -> None:
    dice, path = random.Random(0), tmp_path / "a.parquet"
    table = pa.table({"bytes": [dice.randbytes(1000) for _ in range(30_000)]})
    pq.write_table(table, path, row_group_size=30_000)
    size = table.nbytes
    del table
    before, most = pa.total_allocated_bytes(), 0

    for _ in ParquetTable(path, BatchCache(1 << 30)).rows():
        most = max(most, pa.total_allocated_bytes() - before)

    assert size > 30e6
    assert 0 < most < size / 3


def test_an_empty_row_group_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.Table.from_pylist(ROWS)
    with pq.ParquetWriter(path, table.schema) as writer:
        for part in (table[:0], table[:10], table[:0], table[10:20]):
            writer.write_table(part)
    read = ParquetTable(path, BatchCache(1 << 30))

    assert [read.row(i) for i in range(20)] == list(read.rows()) == ROWS[:20]
