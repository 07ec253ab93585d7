"""Data files of every kind, read in any order; a bad file or line is named."""

import gc
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from prism_api.errors import DataError, SpecError
from prism_api.uris import file_uri
from prism_trainer.data.parquet import BatchCache
from prism_trainer.data.table import Table
from prism_trainer.data.tables import open_table
from row_builders import Row, a_prompt_row, write_jsonl, write_parquet

ROWS: list[Row] = [
    {"id": f"r{i}", "prompt": [{"role": "user", "content": "é" * i}]} for i in range(25)
]


def opened(path: Path) -> Table:
    return open_table(file_uri(path), BatchCache(1 << 30))


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        opened(path)
    assert caught.value.exit_code == 65
    return str(caught.value)


def written(path: Path, rows: list[Row]) -> Path:
    if path.suffix == ".parquet":
        return write_parquet(path, rows, row_group_size=7)
    if path.suffix == ".jsonl":
        return write_jsonl(path, rows)
    path.write_text(json.dumps(rows, indent=1))
    return path


@pytest.mark.parametrize("kind", [".parquet", ".jsonl", ".json"])
def test_rows_are_the_same_in_every_kind_and_order(tmp_path: Path, kind: str) -> None:
    table = opened(written(tmp_path / f"a{kind}", ROWS))

    assert len(table) == 25
    for index in random.Random(0).sample(range(25), 25):
        assert table.row(index) == ROWS[index]
    assert list(table.rows()) == ROWS


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not one JSON value"),
        ('[{"id": 1}', "not one JSON value"),
        ('{"id": 1}\n{"id": 2}', "name it .jsonl if each line is one"),
        ('{"id": 1}', "holds a dict; give an array of objects"),
        ("[" * 100_000, "not one JSON value"),
        ("[]", "has no rows"),
        ('[{"id": 1}] [', "Extra data: byte 12"),
        ('[{"id": 1},]', "Expecting value: byte 11"),
        ('[{"id": 1} {"id": 2}]', "Expecting ',' delimiter: byte 11"),
        ('[{"id": 1}, {"id: 2}]', "Unterminated string starting at: byte 13"),
        ('"text"', "holds a str; give an array of objects"),
        ("-7", "holds a number; give an array of objects"),
        ("null", "holds a NoneType; give an array of objects"),
    ],
)
def test_what_is_no_array_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)

    message = error_of(path)

    assert message.startswith(f"{path}: ")
    assert problem in message


def test_an_element_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id": 1}, [2]]')

    with pytest.raises(DataError, match=r"a\.json row 1: is a list, not an object"):
        list(opened(path).rows())


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (".parquet", "not a readable Parquet file"),
        (".jsonl", "cannot be read"),
        (".json", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, kind: str, problem: str) -> None:
    path = tmp_path / f"a{kind}"
    path.symlink_to("/proc/self/mem")  # no one, not even root, can read its beginning

    with pytest.raises(DataError) as caught:
        open_table(f"file://{path}", BatchCache(0))

    assert str(caught.value).startswith(f"{path}: {problem} (")


def test_a_file_that_vanishes_is_named_when_it_is_used(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    table = opened(path)
    path.unlink()

    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read"):
        table.row(0)


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    table = opened(write_jsonl(tmp_path / "a.jsonl", ["", '{"id": 1}', "  ", '{"id": 2}', ""]))

    assert [table.row(i)["id"] for i in range(len(table))] == [1, 2]


def test_a_last_line_without_an_end_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n{"id": 2}')

    assert opened(path).row(1) == {"id": 2}


def test_a_data_file_is_not_kept_open(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    table = opened(path)
    table.row(3)

    assert str(path) not in {file.path for file in psutil.Process().open_files()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del table
        gc.collect()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("no.parquet", f"{'x' * 300}.parquet"):
        assert f"{tmp_path / name}: no such data file" in error_of(tmp_path / name)
    (tmp_path / "folder.parquet").mkdir()
    assert "no such data file" in error_of(tmp_path / "folder.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a", "a.parquet.gz", "a.PARQUET"])
def test_an_unknown_kind_is_named_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")

    message = error_of(tmp_path / name)

    assert message == (
        f"{tmp_path / name}: unknown kind of data file; give one of .parquet, .jsonl, .json"
    )


def test_a_file_elsewhere_is_a_matter_of_the_settings() -> None:
    with pytest.raises(SpecError, match="cannot be read on this machine"):
        open_table("s3://bucket/a.parquet", BatchCache(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write_parquet(path.with_suffix(".parquet"), [{"id": 1}][:0]),
        lambda path: write_jsonl(path.with_suffix(".jsonl"), []),
        lambda path: write_jsonl(path.with_suffix(".jsonl"), ["", "  "]),
    ],
    ids=["parquet", "nothing", "blank lines"],
)
def test_an_empty_data_set_is_named(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "empty")

    assert error_of(path) == f"{path}: has no rows; give a data set with at least one"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a readable Parquet file"),
        (b"id,prompt\n1,2\n", "not a readable Parquet file"),
        (b"PAR1" + bytes(100) + b"PAR1", "not a readable Parquet file"),
    ],
)
def test_what_is_no_parquet_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)

    assert f"{path}: {problem}" in error_of(path)


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
def test_a_truncated_parquet_file_is_named(tmp_path: Path, keep: float) -> None:
    path = write_parquet(tmp_path / "a.parquet", ROWS)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])

    assert f"{path}: not a readable Parquet file" in error_of(path)


def test_a_damaged_row_group_is_named_with_its_rows(tmp_path: Path) -> None:
    rows = [a_prompt_row(id=f"p{i}") for i in range(20)]
    path = write_parquet(tmp_path / "a.parquet", rows, row_group_size=10)
    content = bytearray(path.read_bytes())
    content[4:40] = bytes(36)
    path.write_bytes(content)
    table = opened(path)

    with pytest.raises(DataError, match=r"rows 0 to 9: are damaged") as caught:
        table.row(5)

    assert str(path) in str(caught.value)
    assert table.row(15)["id"] == "p15"


def test_no_flipped_bit_of_a_parquet_file_is_anything_but_a_data_error(tmp_path: Path) -> None:
    good = write_parquet(tmp_path / "good.parquet", [a_prompt_row(), a_prompt_row()], 1)
    content, path, dice = good.read_bytes(), tmp_path / "bad.parquet", random.Random(1)
    messages = []
    for _ in range(300):
        flipped = bytearray(content)
        flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        try:
            table = opened(path)
            for index in range(len(table)):
                table.row(index)
        except DataError as error:
            messages.append(str(error))

    assert len(messages) > 30
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": 1', "not JSON"),
        ("nonsense", "not JSON"),
        ("[1, 2]", "is a list, not an object"),
        ('"text"', "is a str, not an object"),
        ("null", "is a NoneType, not an object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_named_when_it_is_read(tmp_path: Path, line: str, problem: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": 0}, "", line, {"id": 2}])
    table = opened(path)

    with pytest.raises(DataError, match=problem) as caught:
        table.row(1)

    assert str(caught.value).startswith(f"{path} row 1: ")
    assert table.row(2) == {"id": 2}


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n')

    with pytest.raises(DataError, match="row 0: not JSON"):
        opened(path).row(0)
