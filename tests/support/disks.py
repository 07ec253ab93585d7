"""Real disks and mounts: one that is soon full, one from which nothing can be renamed."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in memory at a new folder; skips the test where mounting is not allowed."""
    path.mkdir(parents=True)
    with _mounted(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)], path):
        yield path


@contextmanager
def other_mount(folder: Path, path: Path) -> Iterator[Path]:
    """A new folder, mounted at another new one: the same disk, and yet no file can be renamed from
    there to here; skips the test where mounting is not allowed."""
    folder.mkdir()
    path.mkdir()
    with _mounted(["mount", "--bind", str(folder), str(path)], path):
        yield path


def fill(disk: Path, *, leave_bytes: int = 0) -> Path:
    """Fill a disk up to the last bytes; deleting the returned file frees it again."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        if leave_bytes:
            file.truncate(max(0, file.tell() - leave_bytes))
    return ballast


@contextmanager
def _mounted(mount: list[str], path: Path) -> Iterator[None]:
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting needs root ({error})")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)
