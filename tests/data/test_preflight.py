"""The preflight: everything wrong with a run's settings and data is said before anything starts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from preflight_builders import QUESTION, checked, configs, spoil, written
from prism_api.exit_codes import ExitCode
from prism_api.uris import file_uri
from prism_trainer import preflight
from prism_trainer.preflight import data_of, find_errors
from row_builders import (
    BLOCKS,
    Row,
    a_demonstration,
    a_png,
    a_prompt_row,
    a_teacher_row,
    write_jsonl,
)
from run_builders import REMOVED, Changes


def test_a_run_without_fault_passes(tmp_path: Path, data: Changes) -> None:
    done = checked(*written(tmp_path, configs(data)))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["sft", "align", "rlvr", "heldout"])
def test_a_bad_row_of_any_data_set_ends_with_65_and_is_named(
    tmp_path: Path, data: Changes, name: str
) -> None:
    spoil(tmp_path / f"{name}.jsonl")

    done = checked(*written(tmp_path, configs(data)))

    assert done.returncode == ExitCode.BAD_DATA
    assert done.stderr.startswith(f"{tmp_path / name}.jsonl row 1: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "row", "problem"),
    [
        ("rlvr", a_prompt_row(images=[{"path": "cut.png"}]), "cut.png cannot be decoded ("),
        ("rlvr", a_prompt_row(images=[{"path": "thin.png"}]), "thin.png is 300 x 1 px, and the"),
        ("rlvr", a_prompt_row(images=[{"path": "gone.png"}]), "gone.png does not exist; copy it"),
        ("heldout", a_prompt_row(reward_model={}), "reward_model.ground_truth is missing, empty"),
        ("sft", a_demonstration(f"<caption>a</caption>{BLOCKS}"), "holds <caption> 2 times"),
        ("align", a_prompt_row(), "column 'teacher_caption' is missing (has "),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_wrong_inside_a_row_is_found_before_anything_starts(
    tmp_path: Path, data: Changes, name: str, row: Row, problem: str
) -> None:
    (tmp_path / "cut.png").write_bytes(a_png()[:60])
    (tmp_path / "thin.png").write_bytes(a_png(300, 1))
    path = tmp_path / f"{name}.jsonl"
    row = {**row, "images": [image for image in row["images"] if image.get("path")]}
    if not row["images"]:
        turns = "messages" if "messages" in row else "prompt"
        row[turns] = [*QUESTION, *row[turns][1:]]
    path.write_text(path.read_text().splitlines()[0] + "\n" + json.dumps(row) + "\n")

    (error,) = find_errors(written(tmp_path, configs(data)))

    assert error.exit_code == ExitCode.BAD_DATA
    assert str(error).startswith(f"{path} row 1: ")
    assert problem in str(error)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path, data: Changes) -> None:
    spoil(tmp_path / "sft.jsonl")
    (tmp_path / "rlvr.jsonl").unlink()
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    planned = configs(
        {**data, "spec.stages.align.rollout": {"backend": "vllm", "weightUpdate": "nccl"}}
    )

    done = checked(*written(tmp_path, planned), broken)

    assert done.returncode == ExitCode.BAD_CONFIG
    assert f"{broken} is not valid" in done.stderr
    assert "stages.align.rollout.weightUpdate: nccl is not available" in done.stderr
    assert f"{tmp_path / 'sft.jsonl'} row 1: " in done.stderr
    assert f"{tmp_path / 'rlvr.jsonl'}: no such data file" in done.stderr


def test_every_data_set_is_read_for_what_its_stage_needs_and_only_once(
    tmp_path: Path, data: Changes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[list[str], str]] = []
    monkeypatch.setattr(
        preflight,
        "check_dataset",
        lambda sources, need, *_: read.append(([Path(s.uri).name for s in sources], need)),
    )

    assert find_errors(written(tmp_path, configs(data))) == []

    assert sorted(read) == [
        (["align.jsonl"], "teacher"),
        (["heldout.jsonl"], "truth"),
        (["rlvr.jsonl"], "truth"),
        (["sft.jsonl"], "response"),
    ]


def test_warm_up_pairs_are_read_with_the_rest(tmp_path: Path, data: Changes) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [a_teacher_row(images=[], prompt=QUESTION)])
    field = "spec.stages.align.discriminator.warmup.data"

    done = checked(*written(tmp_path, configs({**data, field: {"uri": file_uri(pairs)}})))

    assert done.returncode == ExitCode.BAD_DATA
    assert done.stderr.startswith(f"{pairs} row 0: column 'student_caption' is missing")
    assert len(done.stderr.splitlines()) == 1


def test_gating_needs_a_gold_answer_in_every_row(tmp_path: Path, data: Changes) -> None:
    row = a_teacher_row(images=[], prompt=QUESTION)
    path = write_jsonl(tmp_path / "align.jsonl", [row, {**row, "reward_model": None}])
    gating = {"spec.stages.align.gating": {"mode": "sign_align"}}

    without, done = (
        checked(*written(tmp_path, configs({**data, **changes}))) for changes in ({}, gating)
    )

    assert without.returncode == 0
    assert done.returncode == ExitCode.BAD_DATA
    assert done.stderr.startswith(f"{path} row 1: reward_model.ground_truth is missing")
    assert "or remove stages.align.gating" in done.stderr


def test_several_files_of_a_stage_are_one_data_set() -> None:
    sources = [{"uri": "file://a.parquet"}, {"uri": "file://b.parquet"}]
    sft, *_ = configs({"spec.stages.sft.data": sources, "spec.evaluation": REMOVED})

    (use,) = data_of(sft)

    assert [source.uri for source in use.sources] == ["file://a.parquet", "file://b.parquet"]


def test_a_mistake_is_found_without_loading_torch() -> None:
    code = "import sys, prism_trainer.preflight; print({'torch', 'transformers'} & {*sys.modules})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"


def test_a_row_with_more_images_than_a_rollout_server_takes_is_named(
    data: Changes, tmp_path: Path
) -> None:
    """In-process any number is fine; the held-out rows are the servers' too."""
    (tmp_path / "a.png").write_bytes(a_png())
    rows = [
        a_prompt_row(
            images=[{"path": "a.png"}] * count,
            prompt=[{"role": "user", "content": "<image>" * count}],
        )
        for count in (16, 17)
    ]
    many = {"uri": file_uri(write_jsonl(tmp_path / "many.jsonl", rows))}
    changes = {**data, "spec.evaluation.data": many}
    paths = written(tmp_path, configs(changes))
    assert find_errors(paths) == []
    for stage in ("align", "rlvr"):
        served = {f"spec.stages.{stage}.rollout": {"backend": "vllm", "gpusPerReplica": 0}}
        (error,) = find_errors(written(tmp_path, configs({**changes, **served})))
        assert str(error).startswith(f"{tmp_path}/many.jsonl row 1: has 17 images, a rollout serv")
        assert error.exit_code == ExitCode.BAD_DATA
