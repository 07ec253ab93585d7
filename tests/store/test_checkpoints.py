"""Checkpoints: complete with their manifest, verified object by object, never silently older."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from disks import small_disk
from prism_api.base import parse
from prism_api.checkpoint import CheckpointManifest, CheckpointRef
from prism_api.errors import SpecError, StoreError
from prism_api.uris import file_uri, local_path
from prism_store.checkpoints import newest_checkpoint, read_checkpoint, write_checkpoint
from prism_store.store import Store, open_store
from store_builders import FILES, a_checkpoint, a_manifest, a_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    return a_store(tmp_path)


@pytest.fixture
def ref(store: Store, tmp_path: Path) -> CheckpointRef:
    """A complete checkpoint in it."""
    return a_checkpoint(store, tmp_path / "scratch")


def folder_of(ref: CheckpointRef) -> Path:
    return local_path(ref.uri)


def test_a_checkpoint_comes_back_as_it_was(ref: CheckpointRef) -> None:
    checkpoint = read_checkpoint(ref)

    assert {name: path.read_bytes() for name, path in checkpoint.files.items()} == FILES
    assert checkpoint.ref == ref
    assert checkpoint.manifest.step == 4


def test_the_manifest_lists_every_object_with_size_and_hash(ref: CheckpointRef) -> None:
    objects = read_checkpoint(ref).manifest.objects

    assert {o.path: (o.size_bytes, o.sha256) for o in objects} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    }


def test_the_reference_holds_the_hash_of_the_manifest(ref: CheckpointRef) -> None:
    manifest = (folder_of(ref) / "manifest.json").read_bytes()

    assert ref.digest == hashlib.sha256(manifest).hexdigest()


def test_writing_moves_the_files_and_leaves_nothing_behind(
    ref: CheckpointRef, tmp_path: Path
) -> None:
    assert [p for p in (tmp_path / "scratch").rglob("*") if p.is_file()] == []
    written = {p.relative_to(folder_of(ref)).as_posix() for p in folder_of(ref).rglob("*.*")}
    assert written == {*FILES, "manifest.json"}


def test_a_part_of_a_checkpoint_is_a_folder(ref: CheckpointRef) -> None:
    assert read_checkpoint(ref).folder("export") == folder_of(ref) / "export"
    with pytest.raises(StoreError, match="has no tokenizer/"):
        read_checkpoint(ref).folder("tokenizer")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


DAMAGES: dict[Callable[[Path], None], str] = {
    truncate: "bytes, its manifest says",
    empty: "has 0 bytes, its manifest says",
    lengthen: "bytes, its manifest says",
    flip_a_bit: "its content differs from what its manifest says",
    remove: "no such object",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_object_is_named(
    ref: CheckpointRef, name: str, damage: Callable[[Path], None]
) -> None:
    path = folder_of(ref) / name
    intact = path.read_bytes()
    damage(path)

    with pytest.raises(StoreError, match=DAMAGES[damage]) as caught:
        read_checkpoint(ref)

    assert str(path) in str(caught.value)
    path.write_bytes(intact)
    assert read_checkpoint(ref).files[name] == path


def test_a_damaged_object_says_what_to_do(ref: CheckpointRef) -> None:
    flip_a_bit(folder_of(ref) / "state.json")

    with pytest.raises(StoreError, match="restore the object, or delete the checkpoint's folder"):
        read_checkpoint(ref)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_manifest_that_was_altered_after_it_was_handed_on_is_named(
    ref: CheckpointRef, damage: Callable[[Path], None]
) -> None:
    path = folder_of(ref) / "manifest.json"
    damage(path)

    with pytest.raises(StoreError, match=r"was altered after it was handed on|no such object"):
        read_checkpoint(ref)


def test_an_object_of_another_checkpoint_does_not_pass(store: Store, tmp_path: Path) -> None:
    first = a_checkpoint(store, tmp_path / "scratch", step=2)
    other = dict(FILES) | {"state.json": FILES["state.json"].replace(b"4", b"5")}
    second = a_checkpoint(store, tmp_path / "scratch", step=5, files=other)

    (folder_of(second) / "state.json").write_bytes((folder_of(first) / "state.json").read_bytes())

    with pytest.raises(StoreError, match=r"step-5/state\.json"):
        read_checkpoint(second)
    assert read_checkpoint(first)


def newest(store: Store) -> str | None:
    found = newest_checkpoint(store)
    return None if found is None else found.uri.removeprefix(store.uri + "/")


def test_a_store_without_checkpoints_has_no_newest(store: Store) -> None:
    assert newest(store) is None


def test_the_highest_step_is_the_newest_whichever_attempt_wrote_it(
    store: Store, tmp_path: Path
) -> None:
    for attempt, step in ((1, 100), (1, 20), (2, 9)):
        a_checkpoint(store, tmp_path / "scratch", step, attempt)

    assert newest(store) == "a1/step-100"


def test_of_equal_steps_the_later_attempt_wins(store: Store, tmp_path: Path) -> None:
    for attempt in (10, 2, 9, 1):
        a_checkpoint(store, tmp_path / "scratch", 4, attempt)

    assert newest(store) == "a10/step-4"


def test_the_newest_is_what_reading_verifies(store: Store, tmp_path: Path) -> None:
    a_checkpoint(store, tmp_path / "scratch", 2)
    written = a_checkpoint(store, tmp_path / "scratch", 4)

    assert newest_checkpoint(store) == written


def test_a_write_that_was_cut_off_does_not_count(store: Store, tmp_path: Path) -> None:
    a_checkpoint(store, tmp_path / "scratch", 2)
    later = a_checkpoint(store, tmp_path / "scratch", 4)
    (folder_of(later) / "manifest.json").unlink()

    assert newest(store) == "a1/step-2"


def test_other_things_in_an_attempt_are_no_checkpoints(store: Store, tmp_path: Path) -> None:
    a_checkpoint(store, tmp_path / "scratch", 2)
    for key in ("a1/result.json", "a1/metrics.jsonl", "a1/.result.json.7.tmp", "a2/samples.json"):
        store.put(key, b"{}")

    assert newest(store) == "a1/step-2"


@pytest.mark.parametrize(
    "text", ["", "{", "null", json.dumps({"schemaVersion": 2}), '{"runUid": 3}']
)
def test_an_unreadable_manifest_is_damage_not_an_older_start(
    store: Store, tmp_path: Path, text: str
) -> None:
    a_checkpoint(store, tmp_path / "scratch", 2)
    later = a_checkpoint(store, tmp_path / "scratch", 4)
    (folder_of(later) / "manifest.json").write_text(text)

    with pytest.raises(StoreError, match="delete its folder to use the one before") as caught:
        newest(store)

    assert str(folder_of(later) / "manifest.json") in str(caught.value)


def test_a_damaged_newest_checkpoint_is_not_passed_over(store: Store, tmp_path: Path) -> None:
    a_checkpoint(store, tmp_path / "scratch", 2)
    later = a_checkpoint(store, tmp_path / "scratch", 4)
    flip_a_bit(folder_of(later) / "export/model.safetensors")

    found = newest_checkpoint(store)

    assert found == later
    with pytest.raises(StoreError, match=r"step-4/export/model\.safetensors"):
        read_checkpoint(found)


def test_a_checkpoint_that_does_not_fit_is_not_there(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        store = open_store(file_uri(disk))
        kept = a_checkpoint(store, scratch, 2)
        (scratch / "big").write_bytes(bytes(2 << 20))

        with pytest.raises(StoreError, match="the disk is full"):
            write_checkpoint(store, "a1/step-4", scratch, a_manifest(4))

        assert newest_checkpoint(store) == kept
        assert read_checkpoint(kept)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a/..", ".", "a/./b", ""])
def test_a_manifest_cannot_point_outside_its_checkpoint(path: str) -> None:
    document = a_manifest().model_dump(mode="json", by_alias=True)
    document["objects"] = [{"path": path, "sizeBytes": 1, "sha256": "0" * 64}]

    with pytest.raises(SpecError, match=r"objects\[0\]\.path"):
        parse(CheckpointManifest, document)
