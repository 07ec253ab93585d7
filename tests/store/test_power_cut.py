"""What the store reports as written survives a power cut, and no checkpoint is ever half there."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from disks import other_mount, small_disk
from power_cut import Disk, Left, watched
from prism_api.uris import file_uri
from prism_store.store import open_store
from store_builders import FILES, a_checkpoint, a_store

CONTENTS = [b"", b"{}", bytes(100_000)]
"""Empty, smaller and larger than the buffer of a Python file."""


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_an_object_that_was_put_survives_in_folders_that_were_not_there(
    tmp_path: Path, content: bytes
) -> None:
    store = open_store(file_uri(tmp_path / "runs/quickstart/store"))
    with watched(tmp_path) as disk:
        store.put("a1/step-2/state.json", content)

        assert disk.left() == {"runs/quickstart/store/a1/step-2/state.json": content}


def test_a_replaced_object_is_the_old_or_the_new_one_at_every_moment(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.put("key", b"old")
    seen: list[bytes] = []
    with watched(tmp_path, lambda left: seen.append(left["store/key"])):
        store.put("key", b"new")

    assert set(seen) == {b"old", b"new"}
    assert seen[-1] == b"new"


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_a_file_that_was_moved_into_the_store_survives(tmp_path: Path, content: bytes) -> None:
    with watched(tmp_path) as disk:
        source = tmp_path / "source"
        source.write_bytes(content)
        a_store(tmp_path).put_file("a1/weights", source)

        assert disk.left()["store/a1/weights"] == content


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_so_does_one_from_another_disk(tmp_path: Path, content: bytes) -> None:
    store = a_store(tmp_path)
    with small_disk(tmp_path / "scratch", 1 << 20) as scratch, watched(tmp_path) as disk:
        source = scratch / "source"
        source.write_bytes(content)
        store.put_file("a1/weights", source)

        assert disk.left()["store/a1/weights"] == content
        assert not source.exists()


def test_so_does_one_from_another_mount_of_the_same_disk(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with other_mount(tmp_path / "there", tmp_path / "here"), watched(tmp_path) as disk:
        source = tmp_path / "here/source"
        source.write_bytes(b"weights")
        assert source.stat().st_dev == tmp_path.stat().st_dev
        store.put_file("a1/weights", source)

        assert disk.left()["store/a1/weights"] == b"weights"
        assert not source.exists()


def test_a_checkpoint_that_was_written_survives_and_is_never_half_there(tmp_path: Path) -> None:
    folder = "store/a1/step-4"
    moments: list[bool] = []

    def look(left: Left) -> None:
        manifest = left.get(f"{folder}/manifest.json")
        moments.append(manifest is not None)
        for entry in json.loads(manifest)["objects"] if manifest is not None else ():
            content = left[f"{folder}/{entry['path']}"]
            assert hashlib.sha256(content).hexdigest() == entry["sha256"]

    with watched(tmp_path, look) as disk:
        a_checkpoint(a_store(tmp_path), tmp_path / "scratch")

        stored = {name: disk.left().get(f"{folder}/{name}") for name in FILES}
        assert stored == dict(FILES)
    assert moments.count(True) == 1, "the manifest is the last to come"


def test_a_checkpoint_that_is_being_deleted_loses_its_manifest_first_and_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(tmp_path)
    a_checkpoint(store, tmp_path / "scratch")
    with watched(tmp_path / "store") as disk:
        objects = _removed_with(disk, monkeypatch)

        store.delete("a1/step-4")

    assert sorted(objects) == sorted(Path(name).name for name in FILES)


def _removed_with(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that are deleted, none of them while the manifest could come
    back."""
    unlink, removed = os.unlink, []

    def watch(path: Path) -> None:
        if path.name != "manifest.json":
            assert "a1/step-4/manifest.json" not in disk.left()
            removed.append(path.name)
        unlink(path)

    monkeypatch.setattr(os, "unlink", watch)
    return removed
