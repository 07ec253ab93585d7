"""What a power cut would leave on a disk, by the letter of POSIX.

The content of a file is what it was when the file was last synced, the names in a folder are those
of when the folder was last synced, and nothing else survives. Real disks leave more; a program that
relies on this alone is safe on all of them.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

Left = dict[str, bytes]
"""Path relative to the folder that is watched, to content."""
_Inode = tuple[int, int]


class Disk:
    """A folder and what of it is safe; everything in it at the start is."""

    def __init__(self, root: Path, held: ExitStack) -> None:
        self._root, self._held = root, held
        self._files: dict[_Inode, bytes] = {}
        self._folders: dict[_Inode, dict[str, _Inode]] = {}
        for path in (root, *root.rglob("*")):
            self.sync(path)

    def sync(self, path: Path | str) -> None:
        """Make one file or folder safe, without what is below it."""
        descriptor = os.open(path, os.O_RDONLY)
        self._held.callback(os.close, descriptor)  # or another file could get its number
        status = os.fstat(descriptor)
        inode = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            names = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(path)}
            self._folders[inode] = {name: (s.st_dev, s.st_ino) for name, s in names.items()}
        else:
            self._files[inode] = Path(path).read_bytes()

    def left(self) -> Left:
        """What is there after a power cut now; a file that was never synced is empty."""
        status = self._root.stat()
        return dict(self._below((status.st_dev, status.st_ino), ""))

    def _below(self, folder: _Inode, prefix: str) -> Iterator[tuple[str, bytes]]:
        for name, inode in self._folders[folder].items():
            if inode in self._folders:
                yield from self._below(inode, f"{prefix}{name}/")
            else:
                yield prefix + name, self._files.get(inode, b"")


@contextmanager
def watched(root: Path, at_each_sync: Callable[[Left], None] = lambda _: None) -> Iterator[Disk]:
    """Follow what becomes safe; `at_each_sync` gets what a power cut at that moment would leave."""
    with ExitStack() as held, pytest.MonkeyPatch.context() as patch:
        disk = Disk(root, held)
        fsync = os.fsync

        def sync(descriptor: int) -> None:
            fsync(descriptor)
            disk.sync(os.readlink(f"/proc/self/fd/{descriptor}"))
            at_each_sync(disk.left())

        patch.setattr(os, "fsync", sync)
        yield disk
