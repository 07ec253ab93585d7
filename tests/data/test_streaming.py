"""Data sets larger than memory: reading one takes far less of it than its size."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from row_builders import a_demonstration, a_png

MEBIBYTE = 1 << 20
FILE_MIB = 300
CACHE_MIB = 32

READER = """
import random, re, sys
from pathlib import Path
from prism_api.resources import DataSource
from prism_trainer.data import rows

def peak_kib():
    # Not getrusage, whose peak is the parent's at first.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

rows._CACHE_BYTES = {cache}
work, sources = sys.argv[1], [DataSource(uri="file://" + sys.argv[3])]
# What a first look takes, at a file of one row, is not what the size of a file costs.
rows.check_dataset([DataSource(uri="file://" + sys.argv[2])], "response")
before = peak_kib()
if work == "check":
    rows.check_dataset(sources, "response")
elif work == "hold":
    content = Path(sys.argv[3]).read_bytes()
else:
    data = rows.Dataset(sources, "response")
    for index in random.Random(0).sample(range(len(data)), 40):
        row = data[index]
        assert row.id == str(index), (row.id, index)
        assert len(row.images[0].content) > 30_000
print((peak_kib() - before) // 1024)
"""


def a_row(index: int) -> dict[str, Any]:
    """About 33 KB: a picture of noise, and an own id."""
    return a_demonstration(id=str(index), images=[{"bytes": PICTURE, "path": None}])


PICTURE = a_png(180, 180)
ROWS = FILE_MIB * MEBIBYTE // len(PICTURE)


def json_rows(count: int) -> Iterator[str]:
    uri = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    for index in range(count):
        yield json.dumps(a_row(index) | {"images": [uri]})


def write(path: Path, count: int) -> Path:
    """A file of so many rows, written piece by piece."""
    if path.suffix == ".parquet":
        schema = pa.Table.from_pylist([a_row(0)]).schema
        # Not compressed, and without a dictionary: the rows' pictures are alike.
        options = {"compression": "none", "use_dictionary": False}
        with pq.ParquetWriter(path, schema, **options) as writer:
            for start in range(0, count, 100):
                rows = [a_row(i) for i in range(start, min(start + 100, count))]
                writer.write_table(pa.Table.from_pylist(rows, schema))
        return path
    first, between, last = ("", "\n", "\n") if path.suffix == ".jsonl" else ("[", ",\n", "]")
    with path.open("w") as file:
        file.write(first)
        for index, text in enumerate(json_rows(count)):
            file.write(between * bool(index) + text)
        file.write(last)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", [".parquet", ".jsonl", ".json"])
def test_a_large_file_is_read_in_a_fraction_of_its_size(tmp_path: Path, kind: str) -> None:
    """All rows in order, and some in any order with what the cache may hold."""
    small, large = write(tmp_path / f"small{kind}", 1), write(tmp_path / f"large{kind}", ROWS)
    assert large.stat().st_size > FILE_MIB * MEBIBYTE
    peaks = {}
    for work in ("check", "use", "hold"):
        code = READER.format(cache=CACHE_MIB * MEBIBYTE)
        command = [sys.executable, "-c", code, work, str(small), str(large)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks[work] = int(done.stdout)
    large.unlink()

    assert peaks["hold"] >= FILE_MIB - 10, "the measure does not measure"
    assert peaks["check"] < FILE_MIB / 5, peaks
    assert peaks["use"] < CACHE_MIB + FILE_MIB / 5, peaks
