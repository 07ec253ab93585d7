"""Changes of a file system that a power cut leaves: each is on the disk when its function returns.

The content of a file is on the disk after fsync of the file, its name after fsync of its folder.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A new file that takes the target's place at the end of the block, all of it or nothing."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # what did not fit must not fill the disk


def renamed(source: Path, target: Path) -> bool:
    """Move a file, if its file system and mount are the target's; returns whether they are."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    try:
        _rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def remove(path: Path) -> None:
    """Delete a file, if it is there."""
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
