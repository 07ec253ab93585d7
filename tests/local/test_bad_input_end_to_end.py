"""`prism run` on bad input: a clear error, its own exit code, and nothing is lost.

Real processes, real training of a few steps, real damage.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from commands import prism
from prism_api.uris import file_uri
from prism_operator.documents import read_run
from run_builders import Changes
from small_runs import SFT, Run, said, snapshot


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Run:
    """A run that is done."""
    run = Run(tmp_path_factory.mktemp("finished"), digits_folder)
    done = run.run()
    assert done.returncode == 0, said(done)
    assert run.report() == {"sft": 4}
    return run


@pytest.mark.slow
def test_running_a_finished_run_again_changes_nothing(finished: Run) -> None:
    weights = {n: c for n, c in snapshot(finished.out).items() if n.startswith("store/")}

    assert finished.run().returncode == 0

    after = snapshot(finished.out)
    assert {n: c for n, c in after.items() if n.startswith("store/")} == weights
    assert [p.name for p in (finished.out / "work/sft").iterdir()] == ["a1"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"metadata.name": "other"}, "holds a run whose name is small, not other"),
        ({f"{SFT}.steps": 5}, "stage sft: its settings, or the stages before it, changed"),
        ({"spec.seed": 1}, "stage sft: its settings, or the stages before it, changed"),
    ],
    ids=str,
)
def test_the_folder_of_another_run_or_other_settings_ends_with_73_and_is_not_touched(
    finished: Run, tmp_path: Path, changes: Changes, problem: str
) -> None:
    other = Run(tmp_path, finished.digits, changes)
    before = snapshot(finished.out)

    done = prism("run", other.file, "--out", finished.out)

    assert done.returncode == 73
    assert problem in said(done)
    assert "give another folder with --out" in said(done)
    assert snapshot(finished.out) == before


def test_another_seed_on_the_command_line_is_another_setting(finished: Run) -> None:
    before = snapshot(finished.out)

    done = prism("run", finished.file, "--out", finished.out, "--seed", "1")

    assert done.returncode == 73
    assert snapshot(finished.out) == before


ALIGN = {
    "objective": "supervised",
    "steps": 1,
    "batchSize": 4,
    "maxPromptTokens": 64,
    "maxResponseTokens": 96,
}


@pytest.mark.slow
def test_a_document_may_be_mended_where_nothing_was_trained_with_it(
    tmp_path: Path, digits_folder: Path
) -> None:
    nowhere = {"data": {"uri": "file://absent.jsonl"}, "maxResponseTokens": 96}
    run = Run(tmp_path, digits_folder, {"spec.evaluation": nowhere})
    assert run.run().returncode == 65
    run.write({"spec.seed": 1})
    done = run.run()
    assert done.returncode == 0, said(done)
    before = snapshot(run.stage)
    align = ALIGN | {"data": {"uri": file_uri(digits_folder / "align.parquet")}}

    run.write({"spec.seed": 1, "spec.stages.align": align})
    done = run.run()

    assert done.returncode == 0, said(done)
    assert run.report() == {"sft": 4, "align": 1}
    assert snapshot(run.stage) == before
    run.write({"spec.seed": 1, "spec.stages.align": align | {"steps": 2}})
    done = run.run()
    assert done.returncode == 73
    assert "stage align: its settings" in said(done)
    accepted = read_run(run.out / "prismrun.yaml")
    assert (accepted.spec.seed, list(accepted.stages)) == (1, ["sft", "align"])
    assert accepted.stages["align"].steps == 1


@pytest.mark.parametrize(
    ("align", "code", "problem"),
    [
        ({}, 65, "align.parquet: no such data file"),
        (
            {"rollout": {"backend": "vllm", "weightUpdate": "nccl"}},
            64,
            "stages.align.rollout.weightUpdate: nccl is not available",
        ),
    ],
    ids=["missing data", "unsupported settings"],
)
def test_what_is_wrong_with_a_later_stage_is_said_before_anything_starts(
    tmp_path: Path, digits_folder: Path, align: dict[str, object], code: int, problem: str
) -> None:
    data = {"uri": file_uri(tmp_path / "align.parquet")}
    run = Run(tmp_path, digits_folder, {"spec.stages.align": ALIGN | {"data": data} | align})

    done = run.run()

    assert done.returncode == code
    assert problem in said(done)
    assert not (run.out / "work").exists()


def test_a_folder_of_something_else_ends_with_73_and_is_not_touched(
    finished: Run, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"meow")
    before = snapshot(tmp_path)

    done = prism("run", finished.file, "--out", tmp_path)

    assert done.returncode == 73
    assert "is not empty and holds no run" in said(done)
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_a_corrupted_result_of_the_stage_before_ends_with_74(finished: Run, tmp_path: Path) -> None:
    """With the reason at hand, at once, and not after a number of attempts."""
    result = finished.stage / "a1/result.json"
    intact = result.read_bytes()
    result.write_bytes(intact[:40])
    try:
        refused = finished.run()
    finally:
        result.write_bytes(intact)

    assert refused.returncode == 74
    assert f"{result} is not valid" in said(refused)
    assert finished.run().returncode == 0


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_with_70_before_it_does_harm(
    tmp_path: Path, digits_folder: Path
) -> None:
    """Weight decay of such a size multiplies the weights by more with every step."""
    changes = {
        f"{SFT}.steps": 40,
        f"{SFT}.checkpointEverySteps": 1,
        f"{SFT}.learningRate": 1.0,
        f"{SFT}.weightDecay": 1e4,
        f"{SFT}.warmupRatio": 0,
        f"{SFT}.schedule": "constant",
    }
    run = Run(tmp_path, digits_folder, changes)

    done = run.run()

    assert done.returncode == 70, said(done)
    assert "weights are unchanged" in said(done)
    assert "Lower the learning rate" in said(done)
    step = run.newest_step()
    assert f"step {step}: loss" in said(done)
    weights = load_file(run.stage / f"a1/step-{step}/export/model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())
    assert [p.name for p in (run.out / "work/sft").iterdir()] == ["a1"], "it is not tried again"


@pytest.mark.slow
def test_a_poisoned_weight_ends_with_70_and_leaves_no_checkpoint(
    tmp_path: Path, digits_folder: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in (digits_folder / "model").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    weights = load_file(model / "model.safetensors")
    weights["model.language_model.norm.weight"][3] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    run = Run(tmp_path, digits_folder, {"spec.model.uri": file_uri(model)})

    done = run.run()

    assert done.returncode == 70, said(done)
    assert "step 0: loss nan" in said(done)
    assert list(run.out.rglob("manifest.json")) == []


def test_a_wrong_document_ends_with_64_and_makes_no_folder(
    tmp_path: Path, digits_folder: Path
) -> None:
    run = Run(tmp_path, digits_folder, {f"{SFT}.learningRat": 1e-3})

    done = run.run()

    assert done.returncode == 64
    assert f"{SFT}.learningRat: unknown field; did you mean learningRate?" in said(done)
    assert not run.out.exists()
