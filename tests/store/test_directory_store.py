"""The store in a folder: objects are there as a whole or not at all, and errors name them."""

import threading
import tracemalloc
from pathlib import Path

import pytest

from disks import fill, small_disk
from prism_api.errors import StoreError
from prism_api.exit_codes import ExitCode
from prism_api.uris import file_uri, local_path
from prism_store.store import open_store
from store_builders import a_store

MEGABYTE = 1 << 20


def everything_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_what_was_put_can_be_got(tmp_path: Path) -> None:
    store = a_store(tmp_path)

    store.put("a1/step-2/state.json", b"{}")

    assert store.get("a1/step-2/state.json") == b"{}"
    assert store.fetch("a1/step-2/state.json").read_bytes() == b"{}"
    assert store.exists("a1/step-2/state.json")
    assert not store.exists("a1/step-2")
    assert everything_in(tmp_path) == {"store/a1/step-2/state.json"}


def test_putting_again_replaces(tmp_path: Path) -> None:
    store = a_store(tmp_path)

    store.put("key", b"a longer old content")
    store.put("key", b"new")

    assert store.get("key") == b"new"
    assert everything_in(tmp_path) == {"store/key"}


def test_names_below_a_prefix(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for key in ("b/x", "a/2", "a/1/deep", "top"):
        store.put(key, b"")

    assert store.names("") == ["a", "b", "top"]
    assert store.names("a") == ["1", "2"]
    assert store.names("nowhere") == []
    assert store.names("top") == []


def test_delete_takes_everything_below_a_prefix_and_nothing_else(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for key in ("a1/step-2/export/x", "a1/step-2/manifest.json", "a1/step-20/y"):
        store.put(key, b"")

    store.delete("a1/step-2")
    store.delete("never/was")

    assert everything_in(tmp_path) == {"store/a1/step-20/y"}
    assert store.names("a1") == ["step-20"]


@pytest.mark.parametrize("action", ["get", "fetch"])
def test_a_missing_object_is_named(tmp_path: Path, action: str) -> None:
    store = a_store(tmp_path)

    with pytest.raises(StoreError, match="no such object") as caught:
        getattr(store, action)("a1/step-2/state.json")

    assert str(tmp_path / "store/a1/step-2/state.json") in str(caught.value)
    assert caught.value.exit_code is ExitCode.STORE


def test_put_file_moves(tmp_path: Path) -> None:
    store, source = a_store(tmp_path), tmp_path / "source"
    source.write_bytes(b"weights")

    store.put_file("a1/weights", source)

    assert everything_in(tmp_path) == {"store/a1/weights"}
    assert store.get("a1/weights") == b"weights"


def test_readers_see_all_of_an_object_or_none_of_it(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    contents = {bytes([letter]) * 100_000 for letter in b"abcd"}
    store.put("key", min(contents))

    def write() -> None:
        for content in sorted(contents) * 10:
            store.put("key", content)

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(store.get("key"))
    writer.join()

    assert seen <= contents


def test_the_unfinished_write_of_another_process_is_left_alone(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.put("key", b"1")
    (tmp_path / "store/.key.99999.tmp").write_bytes(b"of another process")

    store.put("key", b"2")

    assert store.get("key") == b"2"
    assert everything_in(tmp_path) == {"store/key", "store/.key.99999.tmp"}


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.put("a1", b"a file")

    with pytest.raises(StoreError, match="cannot be written") as caught:
        store.put("a1/result.json", b"{}")

    assert str(tmp_path / "store/a1/result.json") in str(caught.value)


def test_there_is_no_store_for_other_schemes() -> None:
    with pytest.raises(StoreError, match=r"s3://bucket: no store for this scheme"):
        open_store("s3://bucket")


@pytest.mark.parametrize("name", ["plain", "with space", "plus+and%41", "umlaut-ä", "a=b~c"])
def test_a_store_may_lie_in_any_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    store = open_store(file_uri(folder))

    store.put("key", b"x")

    assert (folder / "key").read_bytes() == b"x"
    assert local_path(file_uri(folder)) == folder


class TestFullDisk:
    """On a real small disk; skipped where none can be mounted."""

    def test_a_put_that_does_not_fit_changes_nothing(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", MEGABYTE) as disk:
            store = open_store(file_uri(disk))
            store.put("key", b"old")

            with pytest.raises(StoreError, match="the disk is full") as caught:
                store.put("key", bytes(2 * MEGABYTE))

            assert str(disk / "key") in str(caught.value)
            assert "free some space and run again" in str(caught.value)
            assert store.get("key") == b"old"
            assert everything_in(disk) == {"key"}

    def test_what_did_not_fit_gives_its_space_back(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", MEGABYTE) as disk:
            store = open_store(file_uri(disk))
            with pytest.raises(StoreError):
                store.put("key", bytes(2 * MEGABYTE))

            store.put("key", bytes(MEGABYTE // 2))

            assert len(store.get("key")) == MEGABYTE // 2

    def test_moving_a_file_onto_a_full_disk_keeps_the_file(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(bytes(2 * MEGABYTE))
        with small_disk(tmp_path / "disk", MEGABYTE) as disk:
            with pytest.raises(StoreError, match="the disk is full"):
                open_store(file_uri(disk)).put_file("key", source)

            assert everything_in(disk) == set()
        assert source.stat().st_size == 2 * MEGABYTE

    def test_moving_a_file_to_another_disk_works(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"weights")
        with small_disk(tmp_path / "disk", MEGABYTE) as disk:
            store = open_store(file_uri(disk))

            store.put_file("a1/key", source)

            assert store.get("a1/key") == b"weights"
        assert not source.exists()

    def test_moving_a_file_to_another_disk_takes_no_memory_for_its_content(
        self, tmp_path: Path
    ) -> None:
        store = a_store(tmp_path)
        with small_disk(tmp_path / "disk", 33 * MEGABYTE) as disk:
            source = disk / "source"
            source.write_bytes(bytes(32 * MEGABYTE))
            tracemalloc.start()

            store.put_file("key", source)

            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MEGABYTE
        assert store.fetch("key").stat().st_size == 32 * MEGABYTE

    def test_not_even_a_folder_fits(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", MEGABYTE) as disk:
            ballast = fill(disk)
            store = open_store(file_uri(disk))

            with pytest.raises(StoreError, match="the disk is full"):
                store.put("a1/key", b"x" * 5000)

            ballast.unlink()
            store.put("a1/key", b"x" * 5000)
