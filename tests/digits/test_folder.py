"""The folder: whole or not at all, the same bytes for the same seed, never over anything else."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prism_api.errors import FolderTaken, StoreError
from prism_trainer.digits.__main__ import main
from prism_trainer.digits.folder import About, ensure_folder

SEED = 5
"""Of the fixture `made`."""


def write_number(folder: Path, seed: int) -> About:
    (folder / "part").mkdir()
    (folder / "part" / "number.txt").write_text(str(seed))
    return {"tables": 1}


def write_never(folder: Path, seed: int) -> About:
    raise AssertionError("a folder that is there must not be made again")


def contents_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_another_process_makes_the_same_bytes(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    command = [sys.executable, "-m", "prism_trainer.digits", "--out", str(out), "--seed", str(SEED)]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # DeepSpeed, where it is installed, says something first.
    assert done.stdout.splitlines()[-1] == f"{out}: made, seed {SEED}"
    assert contents_of(out) == contents_of(made)
    assert os.listdir(tmp_path) == ["again"]


def test_about_json_says_what_was_made(made: Path) -> None:
    about = json.loads((made / "about.json").read_text())
    assert about["seed"] == SEED
    assert about["digits"] == {"train": 1237, "validation": 200, "heldout": 360}
    assert about["model"]["vocabulary"] == 364
    assert {name: table["rows"] for name, table in about["tables"].items()} == {
        "sft-public": 12000,
        "sft-curated": 2400,
        "align": 2400,
        "rlvr": 6400,
        "validation": 768,
        "heldout": 768,
    }
    assert about["sha256"].keys() | {"about.json"} == contents_of(made).keys()


def test_a_folder_is_made_with_its_parents_and_nothing_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    assert ensure_folder(out, 3, write_number) is True
    assert contents_of(out).keys() == {"about.json", "part/number.txt"}
    assert os.listdir(out.parent) == ["b"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert ensure_folder(tmp_path, 3, write_number) is True
    assert (tmp_path / "part" / "number.txt").read_text() == "3"


def test_a_complete_folder_of_the_same_seed_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ensure_folder(out, 3, write_number)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert ensure_folder(out, 3, write_never) is False
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def spoil_seed(out: Path) -> None:
    ensure_folder(out, 4, write_number)


def spoil_file(out: Path) -> None:
    ensure_folder(out, 3, write_number)
    (out / "part" / "number.txt").write_text("")


def spoil_listing(out: Path) -> None:
    ensure_folder(out, 3, write_number)
    (out / "part" / "number.txt").unlink()


def spoil_about(out: Path) -> None:
    ensure_folder(out, 3, write_number)
    (out / "about.json").write_text('{"seed": 3')


def spoil_by_stranger(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("")


def spoil_by_file(out: Path) -> None:
    out.write_text("not a folder")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        pytest.param(spoil_seed, "was made with seed 4, not 3", id="another seed"),
        pytest.param(spoil_file, "number.txt: is missing or was changed", id="changed file"),
        pytest.param(spoil_listing, "number.txt: is missing or was changed", id="missing file"),
        pytest.param(spoil_about, "holds something else", id="truncated about.json"),
        pytest.param(spoil_by_stranger, "holds something else", id="somebody's files"),
        pytest.param(spoil_by_file, "holds something else", id="a file"),
    ],
)
def test_anything_else_is_refused_and_not_touched(
    tmp_path: Path, spoil: Callable[[Path], None], complaint: str
) -> None:
    out = tmp_path / "out"
    spoil(out)
    before = contents_of(tmp_path)
    with pytest.raises(FolderTaken, match=complaint):
        ensure_folder(out, 3, write_never)
    assert contents_of(tmp_path) == before


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    def write_half(folder: Path, seed: int) -> About:
        write_number(folder, seed)
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        ensure_folder(tmp_path / "out", 3, write_half)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("rival_seed", "loses"), [(3, False), (4, True)])
def test_of_two_that_make_the_same_folder_the_first_wins(
    tmp_path: Path, rival_seed: int, loses: bool
) -> None:
    out = tmp_path / "out"

    def write_slowly(folder: Path, seed: int) -> About:
        ensure_folder(out, rival_seed, write_number)
        return write_number(folder, seed)

    if loses:
        with pytest.raises(FolderTaken, match="seed 4, not 3"):
            ensure_folder(out, 3, write_slowly)
    else:
        assert ensure_folder(out, 3, write_slowly) is False
    assert (out / "part" / "number.txt").read_text() == str(rival_seed)
    assert os.listdir(tmp_path) == ["out"]


def test_the_command_reports_a_complete_folder_and_a_taken_one(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(made), "--seed", str(SEED)]) == 0
    assert capsys.readouterr().out == f"{made}: already complete, seed {SEED}\n"
    assert main(["--out", str(made), "--seed", "6"]) == 73
    assert "was made with seed 5, not 6" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "2147483648", "x", "1.5", ""])
def test_a_seed_out_of_range_is_a_usage_error(
    tmp_path: Path, seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--out", str(tmp_path / "out"), f"--seed={seed}"])
    assert exit_info.value.code == 2
    assert "is not a number from 0 to 2147483647" in capsys.readouterr().err


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from prism_trainer.digits.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--seed" in done.stdout
