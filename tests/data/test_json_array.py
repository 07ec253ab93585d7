"""JSON arrays are read element by element, wherever the file is cut into pieces."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_api.errors import DataError
from prism_trainer.data import json_array
from prism_trainer.data.json_array import element_places
from prism_trainer.data.json_tables import JsonTable

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values: Any = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)
objects: Any = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrays") / "a.json"


@given(
    rows=objects,
    piece=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    mark=st.booleans(),
)
def test_elements_are_those_of_the_whole_file_whatever_its_pieces(
    path: Path, rows: list[Any], piece: int, indent: int | None, ascii_only: bool, mark: bool
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_READ_BYTES", piece)
        table = JsonTable(path)

    assert len(table) == len(rows)
    assert list(table.rows()) == rows
    assert [table.row(i) for i in reversed(range(len(rows)))] == rows[::-1]


@given(rows=objects.filter(len), piece=st.integers(1, 40), data=st.data())
def test_a_file_that_was_cut_off_is_never_taken_for_a_whole_one(
    path: Path, rows: list[Any], piece: int, data: st.DataObject
) -> None:
    content = json.dumps(rows).encode()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_READ_BYTES", piece)
        with pytest.raises(DataError, match="not one JSON value"):
            list(element_places(path))


def test_one_damaged_element_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"id": 0}, {"id": "\xff"}, {"id": 2}]')
    table = JsonTable(path)

    assert (table.row(0), table.row(2)) == ({"id": 0}, {"id": 2})
    with pytest.raises(DataError, match=r"a\.json row 1: not JSON"):
        table.row(1)
