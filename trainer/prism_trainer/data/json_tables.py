"""JSON data files: one object per line, or one array of objects."""

import json
from array import array
from collections.abc import Iterator
from pathlib import Path

from prism_api.errors import DataError
from prism_trainer.data.json_array import NOT_JSON, element_places, unreadable
from prism_trainer.data.table import RawRow


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
            raise unreadable(self.path, error) from None
        return parsed_object(line, self.path, index)

    def rows(self) -> Iterator[RawRow]:
        """All rows in order, one pass over the file in bounded memory."""
        for index, (_, line) in enumerate(self._lines()):
            yield parsed_object(line, self.path, index)

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
            raise unreadable(self.path, error) from None


class JsonTable:
    """A file that is one JSON array of objects; only the elements' places are held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ends = array("q")
        self._starts = array("q")
        for start, end in element_places(path):
            self._starts.append(start)
            self._ends.append(end)

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, index: int) -> RawRow:
        """One row as plain values."""
        start, end = self._starts[index], self._ends[index]
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                text = file.read(end - start)
        except OSError as error:
            raise unreadable(self.path, error) from None
        return parsed_object(text, self.path, index)

    def rows(self) -> Iterator[RawRow]:
        """All rows in order, each read by itself."""
        for index in range(len(self)):
            yield self.row(index)


def parsed_object(text: bytes, path: Path, index: int) -> RawRow:
    """The object that a row's text is; raises DataError naming the row if it is none."""
    try:
        value = json.loads(text)
    except NOT_JSON as error:
        raise DataError(f"{path} row {index}: not JSON ({error}); mend it") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} row {index}: is a {type(value).__name__}, not an object; mend it")
    return value
