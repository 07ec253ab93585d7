"""Checkpoints in a store: complete when the manifest is there, verified before use."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prism_api.base import parse_json
from prism_api.checkpoint import CheckpointManifest, CheckpointRef, StoredObject
from prism_api.errors import SpecError, StoreError
from prism_api.names import MANIFEST_FILE
from prism_store.attempts import attempt_numbers
from prism_store.store import Store, open_store, store_errors


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every object was verified, as local files."""

    ref: CheckpointRef
    manifest: CheckpointManifest
    files: dict[str, Path]

    def folder(self, prefix: str) -> Path:
        """Local folder of the objects below a prefix, such as `export`."""
        some = next((p for p in self.files if p.startswith(prefix + "/")), None)
        if some is None:
            raise StoreError(f"{self.ref.uri}: has no {prefix}/; it was not made for this use")
        depth = some.removeprefix(prefix + "/").count("/") + 1
        return self.files[some].parents[depth - 1]


def write_checkpoint(
    store: Store, key: str, folder: Path, describe: CheckpointManifest
) -> CheckpointRef:
    """Move a local folder into the store as a checkpoint; the manifest goes last.

    `describe` is the manifest without objects. Raises StoreError if the store is full or not
    writable.
    """
    objects = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        entry = StoredObject(path=name, size_bytes=path.stat().st_size, sha256=_file_hash(path))
        store.put_file(f"{key}/{name}", path)
        objects.append(entry)
    text = describe.model_copy(update={"objects": tuple(objects)}).to_json().encode()
    store.put(f"{key}/{MANIFEST_FILE}", text)
    return CheckpointRef(uri=f"{store.uri}/{key}", digest=hashlib.sha256(text).hexdigest())


def make_checkpoint(
    store: Store,
    key: str,
    folder: Path,
    describe: CheckpointManifest,
    fill: Callable[[Path], None],
) -> CheckpointRef:
    """Write what `fill` puts into a local folder, which is emptied before, as a checkpoint.

    What was under the key is replaced. Raises StoreError with everything deleted again: what did
    not fit must not fill the disk, for others write there too, and so does the outcome.
    """
    shutil.rmtree(folder, ignore_errors=True)
    store.delete(key)
    try:
        with store_errors(folder):
            folder.mkdir(parents=True)
            fill(folder)
        return write_checkpoint(store, key, folder, describe)
    except StoreError:
        shutil.rmtree(folder, ignore_errors=True)
        store.delete(key)
        raise


def read_checkpoint(ref: CheckpointRef) -> Checkpoint:
    """Fetch and verify a checkpoint; raises StoreError naming the object that is missing or
    altered."""
    store = open_store(ref.uri)
    text = store.get(MANIFEST_FILE)
    if hashlib.sha256(text).hexdigest() != ref.digest:
        raise StoreError(f"{ref.uri}/{MANIFEST_FILE}: was altered after it was handed on")
    manifest = _parse(text, f"{ref.uri}/{MANIFEST_FILE}")
    return Checkpoint(ref, manifest, {o.path: _verified(store, o) for o in manifest.objects})


def newest_checkpoint(store: Store) -> CheckpointRef | None:
    """The complete checkpoint with the highest step, of those the one of the latest attempt, in a
    stage's store; none: start afresh.

    A folder without a manifest is a write that was cut off and does not count; a manifest that
    cannot be read is damage and raises StoreError.
    """
    best: tuple[int, int] = (-1, -1)
    best_ref = None
    for number in attempt_numbers(store.names("")):
        for name in store.names(f"a{number}"):
            key = f"a{number}/{name}"
            if not store.exists(f"{key}/{MANIFEST_FILE}"):
                continue
            text = store.get(f"{key}/{MANIFEST_FILE}")
            step = _parse(text, f"{store.uri}/{key}/{MANIFEST_FILE}").step
            if (step, number) > best:
                best = (step, number)
                digest = hashlib.sha256(text).hexdigest()
                best_ref = CheckpointRef(uri=f"{store.uri}/{key}", digest=digest)
    return best_ref


def _parse(text: bytes, name: str) -> CheckpointManifest:
    try:
        return parse_json(CheckpointManifest, text, name)
    except SpecError as error:
        raise StoreError(
            f"{error}\nthe checkpoint is damaged: delete its folder to use the one before"
        ) from None


def _verified(store: Store, entry: StoredObject) -> Path:
    path = store.fetch(entry.path)
    size = path.stat().st_size
    if size != entry.size_bytes:
        raise _damage(path, f"has {size} bytes, its manifest says {entry.size_bytes}")
    if _file_hash(path) != entry.sha256:
        raise _damage(path, "its content differs from what its manifest says")
    return path


def _damage(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path}: {what}; the checkpoint is damaged: restore the object, "
        "or delete the checkpoint's folder to use the one before"
    )


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
