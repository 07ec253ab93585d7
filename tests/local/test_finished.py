"""Which runs `prism compare` takes, and how it calls them."""

import json
from pathlib import Path

import pytest

from commands import prism
from prism_api.errors import RunUnfinished, SpecError
from prism_api.exit_codes import ExitCode
from prism_operator.local.finished import labels_of, read_finished
from report_builders import a_summary


def a_finished_run(folder: Path) -> Path:
    """A folder with a report."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "report.json").write_text(a_summary().to_json())
    return folder


def an_unfinished_run(folder: Path, *reports: str) -> Path:
    """A folder of a run that got as far as these attempts: stage/attempt, with or without a step
    `=phase step/steps`."""
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    for report in reports:
        attempt, _, progress = report.partition("=")
        work = folder / "work" / attempt
        work.mkdir(parents=True)
        if progress:
            phase, _, steps = progress.partition(" ")
            step, of = map(int, steps.split("/"))
            facts = {"phase": phase, "step": step, "steps": of}
            (work / "progress.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["runs/a"], ["a"]),
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/run", "y/run"], ["x/run", "y/run"]),
        (["x/run", "y/run", "other"], ["x/run", "y/run", "other"]),
        (["0/x/run", "1/x/run", "1/y/run"], ["0/x/run", "1/x/run", "y/run"]),
        (["run", "x/run"], ["/run", "x/run"]),
        (["run", "run/run"], ["/run", "run/run"]),
    ],
)
def test_a_run_is_called_by_the_end_of_its_path_that_no_other_one_has(
    tmp_path: Path, folders: list[str], labels: list[str]
) -> None:
    found = labels_of([tmp_path / folder for folder in folders])

    assert found == [f"{tmp_path.name}{x}" if x.startswith("/") else x for x in labels]


def test_a_folder_is_called_by_its_name_however_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")

    assert labels_of([Path(), Path("../other")]) == ["run", "other"]


@pytest.mark.parametrize("again", ["run", "run/", "./run", "other/../run", "link"])
def test_a_run_that_is_given_twice_is_refused(tmp_path: Path, again: str) -> None:
    a_finished_run(tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "other").mkdir()

    with pytest.raises(SpecError, match="is given twice; leave one out"):
        read_finished([tmp_path / "run", tmp_path / again])


def test_runs_are_read_in_the_order_in_which_they_were_given(tmp_path: Path) -> None:
    folders = [a_finished_run(tmp_path / name / "quickstart") for name in "ba"]

    found = read_finished(folders)

    assert list(found) == ["b/quickstart", "a/quickstart"]
    assert list(found.values()) == [a_summary(), a_summary()]


@pytest.mark.parametrize(
    ("reports", "standing"),
    [
        ([], "no stage has started yet"),
        (["sft/a1"], "SFT: before its first step"),
        (["sft/a1=train 7/30"], "SFT: train 7/30"),
        (["sft/a9=train 7/30", "sft/a10=train 8/30", "sft/a11"], "SFT: train 8/30"),
        (["sft/a1=evaluate 0/1", "align/a1=warmup 3/10"], "Alignment: warmup 3/10"),
        (["sft/a1=evaluate 0/1", "rlvr/a1"], "RLVR: before its first step"),
    ],
)
def test_of_a_run_that_is_not_finished_it_is_said_where_it_stands(
    tmp_path: Path, reports: list[str], standing: str
) -> None:
    folder = an_unfinished_run(tmp_path / "run", *reports)

    with pytest.raises(RunUnfinished) as caught:
        read_finished([folder])

    assert str(caught.value).startswith(f"{folder}: the run is not finished ({standing}); ")
    assert f"continue it with prism run FILE --out {folder}" in str(caught.value)
    assert caught.value.exit_code is ExitCode.SAVED


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no run; give the output folder of a finished run"):
        read_finished([tmp_path])
    with pytest.raises(SpecError, match=f"{tmp_path / 'absent'}: is no folder"):
        read_finished([tmp_path / "absent"])


def test_the_command_compares_runs_whose_folders_have_one_name(tmp_path: Path) -> None:
    folders = [a_finished_run(tmp_path / name / "quickstart") for name in "ab"]

    done = prism("compare", *folders, "--plot", tmp_path / "plot.svg")

    assert done.returncode == 0, done.stderr
    assert "a/quickstart" in done.stdout
    assert "b/quickstart" in done.stdout
    assert "a/quickstart" in (tmp_path / "plot.svg").read_text()


def test_the_command_ends_with_75_for_a_run_that_is_not_finished(tmp_path: Path) -> None:
    done = prism("compare", an_unfinished_run(tmp_path / "run", "sft/a1=train 7/30"))

    assert done.returncode == 75
    assert "the run is not finished (SFT: train 7/30)" in done.stderr
