"""Reading what a finished stage left in its folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from prism_api.errors import SpecError, StoreError
from prism_operator.report.artifacts import METRICS_FILE, SAMPLES_FILE, read_stage
from report_builders import a_stage, write_stage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_stage(tmp_path, a_stage("align"))
    return tmp_path


def write_metrics(folder: Path, *lines: str) -> None:
    (folder / METRICS_FILE).write_text("\n".join(lines))


def row(step: int, phase: str = "train", **values: Any) -> str:
    return json.dumps({"step": step, "phase": phase, "seconds": 1.5, **values})


def test_a_stage_is_read_as_it_was_written(folder: Path) -> None:
    assert read_stage(folder) == a_stage("align")


def test_without_metrics_and_samples_the_result_is_still_read(folder: Path) -> None:
    (folder / METRICS_FILE).unlink()
    (folder / SAMPLES_FILE).unlink()
    stage = read_stage(folder)
    assert (stage.metrics, stage.samples) == ((), ())
    assert stage.result == a_stage("align").result


def test_a_stage_without_a_result_is_refused_by_its_path(folder: Path) -> None:
    (folder / "result.json").unlink()
    with pytest.raises(StoreError, match=r"result\.json: cannot be read.*run it again"):
        read_stage(folder)


@pytest.mark.parametrize("text", ['{"schemaVersion": 1', "{}"], ids=["truncated", "empty"])
def test_a_damaged_result_is_refused_by_its_path(folder: Path, text: str) -> None:
    (folder / "result.json").write_text(text)
    with pytest.raises(SpecError, match=str(folder / "result.json")):
        read_stage(folder)


def test_steps_come_in_order_with_warmup_first(folder: Path) -> None:
    write_metrics(folder, row(2), row(1), row(2, "warmup"), row(1, "warmup"))
    points = read_stage(folder).metrics
    assert [(p.phase, p.step) for p in points] == [
        ("warmup", 1),
        ("warmup", 2),
        ("train", 1),
        ("train", 2),
    ]


def test_of_a_step_repeated_after_a_resume_the_later_line_counts(folder: Path) -> None:
    write_metrics(folder, row(1, loss=3.0), row(2, loss=2.0), row(2, loss=1.0))
    assert [point.values["loss"] for point in read_stage(folder).metrics] == [3.0, 1.0]


def test_lines_cut_by_a_kill_are_counted_and_left_out(folder: Path) -> None:
    write_metrics(folder, row(1), '{"step": 2, "lo' + row(2), "[]", '{"loss": 1.0}', "", row(3))
    stage = read_stage(folder)
    assert [point.step for point in stage.metrics] == [1, 3]
    assert stage.damaged_lines == 3


def test_only_numbers_are_metrics(folder: Path) -> None:
    write_metrics(folder, row(1, loss=1, reward=None, note="text", done=True))
    assert read_stage(folder).metrics[0].values == {"loss": 1.0}


def test_numeric_ids_and_answers_are_read_as_texts(folder: Path) -> None:
    sample = {"id": 7, "prompt": "?", "response": "", "ground_truth": 12, "correct": True}
    (folder / SAMPLES_FILE).write_text(json.dumps([sample]))
    read = read_stage(folder).samples[0]
    assert (read.id, read.ground_truth, read.image_png_base64) == ("7", "12", None)


@pytest.mark.parametrize(
    ("text", "where"),
    [("[{", r"\$"), ('[{"id": "a"}]', r"0\.prompt"), ('{"id": "a"}', r"\$")],
    ids=["truncated", "a field is missing", "no list"],
)
def test_damaged_samples_are_refused_by_path_and_place(folder: Path, text: str, where: str) -> None:
    (folder / SAMPLES_FILE).write_text(text)
    with pytest.raises(StoreError, match=rf"samples\.json: is damaged \({where}: .*delete it"):
        read_stage(folder)
