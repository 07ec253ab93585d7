"""The launcher's exit codes and outcome: what bad input looks like to whoever started a stage."""

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Done, launch
from prism_api.base import parse
from prism_api.checkpoint import CheckpointRef
from prism_api.errors import SpecError
from prism_api.run import PrismRun
from prism_api.stage_config import StageConfig
from prism_api.uris import file_uri
from prism_operator.planning.plan import plan
from prism_trainer import preflight
from prism_trainer.data.sampler import draw_at
from prism_trainer.stages.run import run_stage
from row_builders import a_demonstration, a_png, a_prompt_row, write_jsonl
from run_builders import UID, Changes, a_plan, a_small_document

DATA = "spec.stages.sft.data"


def a_config(
    folder: Path, digits: Path, changes: Changes, init_from: CheckpointRef | None = None
) -> StageConfig:
    run = parse(PrismRun, a_small_document(digits, changes))
    (step,) = plan(run, UID, file_uri(folder / "store")).train_steps
    return step.config(1, init_from)


def launched(folder: Path, config: StageConfig | str) -> tuple[Done, dict[str, Any]]:
    path = folder / "stage.json"
    path.write_text(config if isinstance(config, str) else config.to_json())
    done = launch(path, folder / "work")
    outcome: dict[str, Any] = json.loads((folder / "work/outcome.json").read_text())
    assert outcome["code"] == done.returncode
    return done, outcome


def stored(folder: Path) -> list[Path]:
    return [path for path in (folder / "store").rglob("*") if path.is_file()]


def test_a_truncated_image_ends_with_65_and_is_named(tmp_path: Path, digits_folder: Path) -> None:
    (tmp_path / "cut.png").write_bytes(a_png()[:60])
    rows = [a_demonstration() for _ in range(4)]
    rows[2]["images"] = [{"path": "cut.png"}]
    for row in rows[:2] + rows[3:]:
        row["images"] = [{"path": "whole.png"}]
    (tmp_path / "whole.png").write_bytes(a_png())
    path = write_jsonl(tmp_path / "sft.jsonl", rows)

    config = a_config(tmp_path, digits_folder, {DATA: [{"uri": file_uri(path)}]})
    done, outcome = launched(tmp_path, config)

    assert done.returncode == 65, done.stderr
    assert f"{path} row 2: {tmp_path / 'cut.png'} cannot be decoded" in outcome["message"]
    assert outcome["message"] in done.stderr
    assert stored(tmp_path) == []


def test_a_demonstration_without_blocks_ends_with_65(tmp_path: Path, digits_folder: Path) -> None:
    rows = [a_demonstration(images=[], messages=a_demonstration()["messages"]) for _ in range(3)]
    for row in rows:
        row["messages"][0] = {"role": "user", "content": "What?"}
    rows[1]["messages"][-1] = {"role": "assistant", "content": "It is 7."}
    path = write_jsonl(tmp_path / "sft.jsonl", rows)

    config = a_config(tmp_path, digits_folder, {DATA: [{"uri": file_uri(path)}]})
    done, outcome = launched(tmp_path, config)

    assert done.returncode == 65, done.stderr
    assert f"{path} row 1: the demonstration lacks the three blocks" in outcome["message"]


def test_bad_heldout_rows_are_found_before_the_training(
    tmp_path: Path, digits_folder: Path
) -> None:
    row = a_prompt_row(images=[], prompt=[{"role": "user", "content": "What?"}])
    row["reward_model"]["ground_truth"] = None
    path = write_jsonl(tmp_path / "heldout.jsonl", [row])

    changes = {"spec.evaluation": {"data": {"uri": file_uri(path)}}}
    done, outcome = launched(tmp_path, a_config(tmp_path, digits_folder, changes))

    assert done.returncode == 65, done.stderr
    assert f"{path} row 0: reward_model.ground_truth" in outcome["message"]
    assert not (tmp_path / "work/progress.json").exists()


@pytest.mark.slow
def test_a_bad_row_that_no_step_uses_is_found_before_the_training_unless_the_data_was_checked(
    tmp_path: Path, digits_folder: Path
) -> None:
    question = {"role": "user", "content": "What?"}
    row = a_demonstration(images=[], messages=[question, a_demonstration()["messages"][-1]])
    rows = [dict(row) for _ in range(64)]
    unused = max(set(range(64)) - {draw_at(64, 0, "sft", position) for position in range(4)})
    rows[unused] = {"images": []}
    path = write_jsonl(tmp_path / "sft.jsonl", rows)
    changes = {DATA: [{"uri": file_uri(path)}], "spec.stages.sft.steps": 1}
    config = a_config(tmp_path, digits_folder, changes)

    done, outcome = launched(tmp_path, config)

    assert done.returncode == 65, done.stderr
    assert f"{path} row {unused}: " in outcome["message"]
    assert not (tmp_path / "work/progress.json").exists()
    assert launch(tmp_path / "stage.json", tmp_path / "work", "--checked").returncode == 0


def test_a_missing_checkpoint_of_the_stage_before_ends_with_74(
    tmp_path: Path, digits_folder: Path
) -> None:
    ref = CheckpointRef(uri=file_uri(tmp_path / "store/sft/a1/step-4"), digest="0" * 64)

    done, outcome = launched(tmp_path, a_config(tmp_path, digits_folder, {}, ref))

    assert done.returncode == 74, done.stderr
    assert "step-4/manifest.json: no such object" in outcome["message"]


def test_an_engine_that_is_not_installed_is_named(
    tmp_path: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    config = a_config(tmp_path, digits_folder, {"spec.workers": {"engine": "deepspeed-zero3"}})

    with pytest.raises(SpecError, match="needs the package deepspeed") as caught:
        run_stage(config, tmp_path)

    assert [problem.path for problem in caught.value.problems] == ["stages.sft.workers.engine"]
    assert caught.value.exit_code == 64


def test_more_gpus_than_the_machine_has_end_with_64(tmp_path: Path, digits_folder: Path) -> None:
    """One pod with two GPUs is two processes here."""
    changes = {"spec.workers": {"engine": "replicated", "gpusPerReplica": 2}}

    done, outcome = launched(tmp_path, a_config(tmp_path, digits_folder, changes))

    assert done.returncode == 64, done.stderr
    assert "2 GPUs are needed here, this machine has 0; ask for fewer" in outcome["message"]


def test_so_does_what_alignment_cannot_do_yet(tmp_path: Path) -> None:
    changes: Changes = {"spec.rollout": {"backend": "vllm", "weightUpdate": "nccl"}}
    config = a_plan(changes).train_steps[1].config(1, None)

    with pytest.raises(SpecError) as caught:
        run_stage(config, tmp_path)

    assert [problem.path for problem in caught.value.problems] == [
        "stages.align.rollout.weightUpdate"
    ]


def test_a_stage_on_servers_that_nobody_started_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRISM_ROLLOUT_URLS", raising=False)
    config = a_plan({"spec.rollout": {"backend": "vllm"}}).train_steps[2].config(1, None)

    with pytest.raises(SpecError, match="PRISM_ROLLOUT_URLS: names no rollout server; start"):
        run_stage(config, tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ('{"schemaVersion": 1', "is not JSON"),
        ("{}", "run: is missing"),
        ("[]", "give a mapping of fields"),
    ],
)
def test_a_bad_config_ends_with_64_at_once(tmp_path: Path, text: str, problem: str) -> None:
    done = launch(_written(tmp_path / "stage.json", text), tmp_path / "work")

    assert done.returncode == 64
    assert str(tmp_path / "stage.json") in done.stderr
    assert problem in done.stderr


def test_a_config_of_another_stage_ends_with_64(tmp_path: Path, digits_folder: Path) -> None:
    document = json.loads(a_config(tmp_path, digits_folder, {}).to_json()) | {"kind": "rlvr"}

    done = launch(_written(tmp_path / "stage.json", json.dumps(document)), tmp_path / "work")

    assert done.returncode == 64
    assert "stages.rlvr: is missing" in done.stderr


def test_a_missing_config_ends_with_64(tmp_path: Path) -> None:
    done = launch(tmp_path / "stage.json", tmp_path / "work")

    assert done.returncode == 64
    assert f"{tmp_path / 'stage.json'}: cannot be read" in done.stderr


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
