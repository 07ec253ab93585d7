"""The output folder: whose it is, and that nothing of anybody else's is ever touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from disks import fill, small_disk
from power_cut import watched
from prism_api.errors import FolderTaken, StoreError
from prism_api.run import PrismRun
from prism_api.uris import file_uri
from prism_operator.documents import read_run
from prism_operator.local.folder import Usage, open_folder
from run_builders import REMOVED, Changes, a_prism_run

Snapshot = dict[str, tuple[int, bytes | None]]


def snapshot(folder: Path) -> Snapshot:
    """Names, times of change and contents of everything."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in folder.rglob("*")
    }


def opened_and_closed(path: Path, run: PrismRun) -> str:
    """The UID that the folder's run has."""
    folder = open_folder(path, run)
    folder.close()
    return folder.identity.uid


def refused(path: Path, changes: Changes | None = None) -> str:
    """Why the folder is refused; checks that nothing in it was touched."""
    before = snapshot(path)
    with pytest.raises(FolderTaken) as caught:
        open_folder(path, a_prism_run(changes))
    assert snapshot(path) == before
    assert caught.value.exit_code == 73
    return str(caught.value)


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder_becomes_the_runs(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "deep/out"
    if exists:
        path.mkdir(parents=True)

    opened_and_closed(path, a_prism_run())

    assert sorted(p.name for p in path.iterdir()) == [".lock", "run.json"]


def test_opening_again_finds_the_same_run(tmp_path: Path) -> None:
    first = opened_and_closed(tmp_path / "out", a_prism_run())

    assert opened_and_closed(tmp_path / "out", a_prism_run()) == first


def test_every_folder_has_a_run_of_its_own(tmp_path: Path) -> None:
    uids = {opened_and_closed(tmp_path / name, a_prism_run()) for name in "ab"}

    assert len(uids) == 2


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"metadata.name": "other"}, "name is run, not other"),
        ({"metadata.namespace": "other"}, "namespace is default, not other"),
        ({"spec.storage": {"uri": "file:///s"}}, "store is {own}, not file:///s"),
    ],
    ids=["name", "namespace", "store"],
)
def test_another_run_is_refused(tmp_path: Path, changes: Changes, difference: str) -> None:
    opened_and_closed(tmp_path, a_prism_run())

    message = refused(tmp_path, changes)

    assert message == (
        f"{tmp_path}: holds a run whose {difference.format(own=file_uri(tmp_path / 'store'))}; "
        "undo the change, or give another folder with --out"
    )


def test_a_folder_that_was_moved_is_refused(tmp_path: Path) -> None:
    """Its results name their checkpoints by where they lay."""
    opened_and_closed(tmp_path / "out", a_prism_run())
    (tmp_path / "out").rename(tmp_path / "moved")

    message = refused(tmp_path / "moved")

    assert f"store is {file_uri(tmp_path / 'out/store')}, not " in message


@pytest.mark.parametrize(
    "changes",
    [
        {"spec.seed": 1},
        {"spec.suspend": True},
        {"spec.failurePolicy": {"maxRestarts": 9}},
        {"spec.stages.sft.learningRate": 1e-4},
        {"spec.stages.align": REMOVED},
        {"metadata.labels": {"team": "a"}},
    ],
    ids=str,
)
def test_other_settings_are_no_other_run(tmp_path: Path, changes: Changes) -> None:
    """Whether its stages admit them is another question."""
    before = opened_and_closed(tmp_path, a_prism_run())

    assert opened_and_closed(tmp_path, a_prism_run(changes)) == before


def test_retention_does_not_make_another_store(tmp_path: Path) -> None:
    storage = {"spec.storage": {"uri": "file:///s", "retention": {"keepLast": 1}}}
    other = {"spec.storage": {"uri": "file:///s", "retention": {"keepLast": 5}}}

    before = opened_and_closed(tmp_path, a_prism_run(storage))

    assert opened_and_closed(tmp_path, a_prism_run(other)) == before


def test_checkpoints_lie_in_the_folder_or_where_the_run_says(tmp_path: Path) -> None:
    storage = {"spec.storage": {"uri": "file:///elsewhere"}}
    own = open_folder(tmp_path / "own", a_prism_run())
    other = open_folder(tmp_path / "other", a_prism_run(storage))

    assert own.identity.store == file_uri(tmp_path / "own/store")
    assert other.identity.store == "file:///elsewhere"
    own.close()
    other.close()


@pytest.mark.parametrize(
    "names", [["notes.txt"], ["prismrun.yaml"], [".hidden"], [".lock", "notes.txt"]], ids=str
)
def test_a_foreign_folder_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("mine")

    assert refused(tmp_path) == (
        f"{tmp_path}: is not empty and holds no run; give another folder with --out"
    )


def test_a_folder_with_only_folders_is_foreign_too(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()

    assert "holds no run" in refused(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": "run"}', '{"a": 1}', "\x00"])
def test_an_identity_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)

    assert "run.json: says nothing about a run of ours" in refused(tmp_path)


def test_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("mine")

    with pytest.raises(FolderTaken, match="out: is a file; give a folder with --out"):
        open_folder(path, a_prism_run())

    assert path.read_text() == "mine"


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    with pytest.raises(StoreError, match="cannot be written"):
        open_folder(tmp_path / "file/out", a_prism_run())


@pytest.mark.parametrize("left", [[".lock"], [".lock", ".run.json.17.tmp"]], ids=str)
def test_a_start_that_was_cut_off_does_not_lock_the_folder_for_ever(
    tmp_path: Path, left: list[str]
) -> None:
    for name in left:
        (tmp_path / name).write_text("")

    assert opened_and_closed(tmp_path, a_prism_run())


def test_the_newest_document_is_kept(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, a_prism_run())
    for run in (a_prism_run(), a_prism_run({"spec.seed": 1})):
        folder.save_document(run)

        assert read_run(folder.document) == run
    folder.close()


def test_the_same_document_is_not_written_again(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, a_prism_run())
    folder.save_document(a_prism_run())
    before = snapshot(tmp_path)

    folder.save_document(a_prism_run())

    assert snapshot(tmp_path) == before
    folder.close()


OPEN_AND_CLOSE = """
import sys
from pathlib import Path

from prism_api.errors import FolderTaken
from prism_operator.local.folder import open_folder
from run_builders import a_prism_run

try:
    open_folder(Path(sys.argv[1]), a_prism_run()).close()
    print("opened")
except FolderTaken as error:
    print(error)
"""


def in_another_process(path: Path) -> str:
    command = [sys.executable, "-c", OPEN_AND_CLOSE, str(path)]
    support = str(Path(__file__).parents[1] / "support")
    environment = os.environ | {"PYTHONPATH": support}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_second_invocation_is_locked_out(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, a_prism_run())
    try:
        before = snapshot(tmp_path)
        with pytest.raises(FolderTaken, match="another prism is working on this run"):
            open_folder(tmp_path, a_prism_run())
        assert snapshot(tmp_path) == before
    finally:
        folder.close()


def test_so_is_another_process_until_the_first_is_done(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, a_prism_run())
    assert "another prism is working on this run" in in_another_process(tmp_path)

    folder.close()

    assert in_another_process(tmp_path) == "opened"


def test_attempts_are_found_in_order_of_their_numbers(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, a_prism_run())
    folder.close()
    for number in (10, 9, 1):
        folder.work("sft", number).mkdir(parents=True)
    (tmp_path / "work/sft/notes").mkdir()

    assert folder.attempts("sft") == [1, 9, 10]
    assert folder.attempts("rlvr") == []


def test_usage_adds_up_over_invocations(tmp_path: Path) -> None:
    folder = open_folder(tmp_path, a_prism_run())
    folder.close()

    assert folder.usage() == Usage()
    folder.save_usage(Usage(12.5, 1000))
    assert folder.usage() == Usage(12.5, 1000)


class TestFullDisk:
    """On a real small disk; skipped where none can be mounted."""

    def test_a_folder_that_cannot_be_made_can_be_made_later(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", 64 << 10) as disk:
            ballast = fill(disk)
            with pytest.raises(StoreError, match="the disk is full"):
                open_folder(disk / "out", a_prism_run())

            ballast.unlink()

            assert opened_and_closed(disk / "out", a_prism_run())

    def test_a_folder_whose_identity_does_not_fit_is_not_taken(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", 64 << 10) as disk:
            (disk / "out").mkdir()
            ballast = fill(disk)
            with pytest.raises(StoreError, match=r"run\.json: the disk is full"):
                open_folder(disk / "out", a_prism_run())

            ballast.unlink()

            assert opened_and_closed(disk / "out", a_prism_run())
            assert json.loads((disk / "out/run.json").read_text())["name"] == "run"

    def test_figures_that_do_not_fit_are_let_go(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", 64 << 10) as disk:
            folder = open_folder(disk / "out", a_prism_run())
            folder.close()
            folder.save_usage(Usage(1.0, 1))
            fill(disk)

            folder.save_usage(Usage(2.0, 2))

            assert folder.usage() == Usage(1.0, 1)


@pytest.mark.parametrize("text", ["", "{", '{"unknown": 1}', "[]"])
def test_unreadable_usage_counts_as_none(text: str, tmp_path: Path) -> None:
    folder = open_folder(tmp_path, a_prism_run())
    (tmp_path / "usage.json").write_text(text)

    assert folder.usage() == Usage()
    folder.close()


def test_a_folder_that_says_whose_it_is_survives_a_power_cut(tmp_path: Path) -> None:
    with watched(tmp_path) as disk:
        folder = open_folder(tmp_path / "runs/mine", a_prism_run())

        assert json.loads(disk.left()["runs/mine/run.json"])["uid"] == folder.identity.uid
    folder.close()
