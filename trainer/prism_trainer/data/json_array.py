"""Where the elements of a JSON array lie in its file, found in one pass in bounded memory."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from prism_api.errors import DataError

NOT_JSON = (ValueError, RecursionError)
"""What `json` raises; the last for brackets nested too deeply."""
_READ_BYTES = 1 << 20
_BYTE_ORDER_MARK = "\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\n\r]*")
_KINDS = {  # by the first character
    "{": "dict",
    '"': "str",
    "t": "bool",
    "f": "bool",
    "n": "NoneType",
}


def element_places(path: Path) -> Iterator[tuple[int, int]]:
    """Start and end, in bytes, of every element; raises DataError for what is no JSON array."""
    try:
        with path.open("rb") as file:
            yield from _Scan(file, path).elements()
    except OSError as error:
        raise unreadable(path, error) from None
    except NOT_JSON as error:
        problem = f"{path}: not one JSON value ({error})"
        raise DataError(f"{problem}; mend it, or name it .jsonl if each line is one") from None


def unreadable(path: Path, error: OSError) -> DataError:
    """What is said of a file that cannot be read."""
    return DataError(f"{path}: cannot be read ({error}); check the file and its permissions")


class _Scan:
    """A window that moves over the file. It is read as Latin-1: one character per byte, and what
    gives JSON its structure is ASCII, which is no part of any other character of UTF-8."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._start, self._at = "", 0, 0
        self._decoder = json.JSONDecoder()

    def elements(self) -> Iterator[tuple[int, int]]:
        self._more()
        self._at = len(_BYTE_ORDER_MARK) if self._text.startswith(_BYTE_ORDER_MARK) else 0
        self._expect_array()
        separator = ","
        if self._next() == "]":
            self._at, separator = self._at + 1, "]"
        while separator == ",":
            start = self._start + self._at
            self._skip_element()
            yield start, self._start + self._at
            separator = self._next()
            if separator not in (",", "]"):
                raise self._error("Expecting ',' delimiter")
            self._at += 1
            self._next()
        if self._next():
            raise self._error("Extra data")

    def _expect_array(self) -> None:
        first = self._next()
        if first == "[":
            self._at += 1
            return
        self._skip_element()
        if self._next():
            raise self._error("Extra data")
        kind = _KINDS.get(first, "number")
        raise DataError(f"{self._path}: holds a {kind}; give an array of objects")

    def _next(self) -> str:
        """The next character that is no space, which is then the current one; none at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None, "it matches nothing too"
            self._at = space.end()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _skip_element(self) -> None:
        """Go to the end of the value that begins here. One that is cut off by the window's end is
        read again in a window of twice the size."""
        size = _READ_BYTES
        while True:
            try:
                _, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                place = self._start + error.pos
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - 8
                if not (cut and self._more(size)):
                    raise ValueError(f"{error.msg}: byte {place}") from None
            else:
                # A number that ends with the window may go on.
                if end < len(self._text) or not self._more(size):
                    self._at = end
                    return
            size *= 2

    def _more(self, size: int = _READ_BYTES) -> bool:
        """Move the window's beginning to the current place and read on; whether there was more."""
        content = self._file.read(size)
        self._text = self._text[self._at :] + content.decode("latin-1")
        self._start, self._at = self._start + self._at, 0
        return bool(content)

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"{problem}: byte {self._start + self._at}")
