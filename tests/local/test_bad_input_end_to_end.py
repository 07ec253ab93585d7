"""`prism run` on bad input and bad days: a clear error, its own exit code, and nothing is lost.

Real processes, real training of a few steps, real damage.
"""

import json
import signal
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from commands import Done, prism, prism_interrupted
from disks import fill, small_disk
from prism_api.uris import file_uri
from prism_operator.documents import read_run
from prism_store.checkpoints import newest_checkpoint, read_checkpoint
from prism_store.store import open_store
from run_builders import Changes, a_small_document, write_yaml

SFT = "spec.stages.sft"
MANY_STEPS: Changes = {f"{SFT}.steps": 2000, f"{SFT}.checkpointEverySteps": 1000}
"""More than anybody waits for: such a run ends only because it was interrupted."""

Snapshot = dict[str, tuple[int, bytes]]


class Run:
    """A small run, its document and its folder."""

    def __init__(self, folder: Path, digits: Path, changes: Changes | None = None) -> None:
        self.folder, self.digits = folder, digits
        self.out = folder / "out"
        self.file = folder / "run.yaml"
        self.write(changes)

    def write(self, changes: Changes | None) -> None:
        """Change the document."""
        write_yaml(self.file, a_small_document(self.digits, changes))

    def run(self) -> Done:
        """To its end."""
        return prism("run", self.file, "--out", self.out)

    def interrupt(self) -> Done:
        """Ctrl-C after the first steps."""
        return prism_interrupted("run", self.file, "--out", self.out, when=self.has_stepped)

    def has_stepped(self) -> bool:
        """Whether the newest attempt has reported a step."""
        works = sorted((self.out / "work/sft").glob("a*"))
        return bool(works) and (works[-1] / "progress.json").exists()

    @property
    def stage(self) -> Path:
        """SFT in the store."""
        (found,) = (self.out / "store/default/small").glob("*/sft")
        return found

    def newest_step(self) -> int:
        """Of the newest checkpoint, all of whose objects are intact."""
        store = open_store(file_uri(self.stage))
        ref = newest_checkpoint(store)
        assert ref is not None
        return read_checkpoint(ref).manifest.step

    def report(self) -> dict[str, int]:
        """Steps of every stage, as reported at the end."""
        stages = json.loads((self.out / "report.json").read_text())["stages"]
        return {kind: stage["steps"] for kind, stage in stages.items()}


def said(done: Done) -> str:
    """What the user sees, in one line: tables and progress break lines."""
    return " ".join((done.stdout + done.stderr).split())


def snapshot(folder: Path) -> Snapshot:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


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
def test_ctrl_c_saves_and_running_again_finishes(tmp_path: Path, digits_folder: Path) -> None:
    run = Run(tmp_path, digits_folder, {f"{SFT}.steps": 60, f"{SFT}.checkpointEverySteps": 1000})

    stopped = run.interrupt()

    assert stopped.returncode == 75, said(stopped)
    assert "the same command continues from the last checkpoint" in said(stopped)
    saved = run.newest_step()
    assert 1 <= saved < 60
    cut_off = run.stage / "a1/step-99"
    cut_off.mkdir()
    (cut_off / "state.json").write_text("of a write that never got to its manifest")
    done = run.run()
    assert done.returncode == 0, said(done)
    assert run.report() == {"sft": 60}
    assert run.newest_step() == 60
    assert not cut_off.exists()
    metrics = (run.stage / "a2/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == list(range(1, 61))


def freeze_workers(out: Path) -> bool:
    """Stop a run's workers where they are, so that they cannot save anything any more."""
    workers = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])  # zombies have none
        if "prism_trainer.worker" in line and str(out) in line:
            workers.append(process)
    for worker in workers:
        worker.suspend()
    return bool(workers)


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_the_save_and_says_what_is_lost(
    tmp_path: Path, digits_folder: Path
) -> None:
    run = Run(tmp_path, digits_folder, MANY_STEPS)

    def when() -> bool:
        return run.has_stepped() and freeze_workers(run.out)

    stopped = prism_interrupted("run", run.file, "--out", run.out, when=when, times=2)

    assert stopped.returncode == 75, said(stopped)
    assert "what was done since the last one is lost" in said(stopped)
    assert list(run.out.rglob("manifest.json")) == []


@pytest.mark.slow
def test_while_it_runs_a_second_invocation_ends_with_73_and_sigterm_saves_the_first(
    tmp_path: Path, digits_folder: Path
) -> None:
    run = Run(tmp_path, digits_folder, MANY_STEPS)
    second: list[Done] = []

    def when() -> bool:
        if run.has_stepped() and not second:
            second.append(run.run())
        return bool(second)

    first = prism_interrupted("run", run.file, "--out", run.out, when=when, number=signal.SIGTERM)

    assert second[0].returncode == 73
    assert "another prism is working on this run" in said(second[0])
    assert first.returncode == 75, said(first)
    assert run.newest_step() >= 1


@pytest.mark.slow
def test_a_corrupted_checkpoint_ends_with_74_and_goes_on_once_it_is_restored(
    tmp_path: Path, digits_folder: Path
) -> None:
    run = Run(tmp_path, digits_folder, {f"{SFT}.steps": 60, f"{SFT}.checkpointEverySteps": 1000})
    assert run.interrupt().returncode == 75
    step = run.newest_step()
    damaged = run.stage / f"a1/step-{step}/policy-optimizer.safetensors"
    intact = damaged.read_bytes()
    damaged.write_bytes(intact[: len(intact) // 2])
    before = snapshot(run.out / "store")

    refused = run.run()

    assert refused.returncode == 74, said(refused)
    assert f"{damaged}: has {len(intact) // 2} bytes, its manifest says" in said(refused)
    assert "restore the object" in said(refused)
    assert snapshot(run.out / "store") == before
    damaged.write_bytes(intact)
    done = run.run()
    assert done.returncode == 0, said(done)
    assert run.report() == {"sft": 60}


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
def test_a_full_disk_ends_with_74_and_goes_on_once_there_is_space(
    tmp_path: Path, digits_folder: Path
) -> None:
    run = Run(tmp_path, digits_folder, {f"{SFT}.steps": 6, f"{SFT}.checkpointEverySteps": 2})
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        run.out = disk / "out"
        one = _checkpoint_bytes(digits_folder)
        # Room for one checkpoint and a half.
        ballast = fill(disk, leave_bytes=one + one // 2)

        full = run.run()

        assert full.returncode == 74, said(full) + _log(run)
        assert "the disk is full" in said(full)
        assert str(disk) in said(full)
        assert "free some space and run again" in said(full)
        assert run.newest_step() == 2
        ballast.unlink()
        done = run.run()
        assert done.returncode == 0, said(done) + _log(run)
        assert run.report() == {"sft": 6}


@pytest.mark.slow
def test_a_disk_that_fills_up_on_ctrl_c_is_not_hidden(tmp_path: Path, digits_folder: Path) -> None:
    run = Run(tmp_path, digits_folder, MANY_STEPS)
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        run.out = disk / "out"

        def when() -> bool:
            if not run.has_stepped():
                return False
            fill(disk)
            return True

        full = prism_interrupted("run", run.file, "--out", run.out, when=when)

        assert full.returncode == 74, said(full) + _log(run)
        assert "the disk is full" in said(full)


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


def _checkpoint_bytes(digits: Path) -> int:
    """Weights, and two moments of each."""
    return 3 * (digits / "model/model.safetensors").stat().st_size


def _log(run: Run) -> str:
    """For the reader of a failed test."""
    logs = sorted((run.out / "work/sft").glob("a*/log.txt"))
    return logs[-1].read_text()[-3000:] if logs else "no log"
