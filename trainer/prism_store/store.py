"""The store protocol and its directory implementation."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from prism_api.errors import StoreError
from prism_api.names import MANIFEST_FILE
from prism_api.uris import local_path, scheme
from prism_store import durable

KEEP_FREE = "free some space and run again: the last complete checkpoint is intact"


class Store(Protocol):
    """Objects by key under one root; a key is a relative path with forward slashes."""

    uri: str

    def put(self, key: str, content: bytes) -> None:
        """Write an object so that readers see all of it or nothing, and a power cut after that
        leaves it."""

    def put_file(self, key: str, source: Path) -> None:
        """Move a local file into the store, as safely as `put`."""

    def get(self, key: str) -> bytes:
        """An object's content; raises StoreError if it is missing."""

    def fetch(self, key: str) -> Path:
        """A local file with the object's content; raises StoreError if it is missing."""

    def exists(self, key: str) -> bool:
        """Whether the object is there."""

    def names(self, prefix: str) -> list[str]:
        """Sorted names directly below a prefix, objects and deeper prefixes alike."""

    def delete(self, prefix: str) -> None:
        """Delete all objects below a prefix, `manifest.json` first; what is missing is fine."""


class DirectoryStore:
    """A store in a local folder."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._root = local_path(self.uri)

    def put(self, key: str, content: bytes) -> None:
        """See Store.put."""
        target = self._root / key
        with store_errors(target):
            durable.make_folder(target.parent)
            with durable.replacing(target) as file:
                file.write(content)

    def put_file(self, key: str, source: Path) -> None:
        """See Store.put_file; a rename where source and store share a file system."""
        target = self._root / key
        with store_errors(target):
            durable.make_folder(target.parent)
            if not durable.renamed(source, target):
                with source.open("rb") as file, durable.replacing(target) as copy:
                    shutil.copyfileobj(file, copy)
                source.unlink()

    def get(self, key: str) -> bytes:
        """See Store.get."""
        path = self.fetch(key)
        with store_errors(path, "read"):
            return path.read_bytes()

    def fetch(self, key: str) -> Path:
        """See Store.fetch."""
        path = self._root / key
        if not path.is_file():
            raise StoreError(f"{path}: no such object; was it deleted by hand?")
        return path

    def exists(self, key: str) -> bool:
        """See Store.exists."""
        return (self._root / key).is_file()

    def names(self, prefix: str) -> list[str]:
        """See Store.names."""
        folder = self._root / prefix
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def delete(self, prefix: str) -> None:
        """See Store.delete."""
        folder = self._root / prefix
        with store_errors(folder, "deleted"):
            for manifest in list(folder.rglob(MANIFEST_FILE)):
                durable.remove(manifest)  # for good, or a power cut could leave it alone
            for path in sorted(folder.rglob("*"), reverse=True):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
            if folder.is_dir():
                folder.rmdir()


def open_store(uri: str) -> Store:
    """The store at a URI; raises StoreError for a scheme that has none."""
    if scheme(uri) != "file":
        raise StoreError(f"{uri}: no store for this scheme; give a file:// uri")
    return DirectoryStore(uri)


@contextmanager
def store_errors(target: Path, what: str = "written") -> Iterator[None]:
    """Turn errors of the file system into a StoreError that names `target`."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise StoreError(f"{target}: the disk is full; {KEEP_FREE}") from error
        if isinstance(error, OSError):
            raise StoreError(
                f"{target}: cannot be {what} ({error.strerror}); check the folder"
            ) from error
        raise


def is_full(error: Exception) -> bool:
    """Whether it says that there is no space left."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"os error {errno.ENOSPC}" in str(error)  # as safetensors and tokenizers put it
