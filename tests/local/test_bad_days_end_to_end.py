"""`prism run` on bad days: stopped, cut off, without space. Its own exit code, and nothing is lost.

Real processes, real training of a few steps, real damage.
"""

import json
import signal
from pathlib import Path

import psutil
import pytest

from commands import Done, prism_interrupted
from disks import fill, small_disk
from small_runs import MANY_STEPS, SFT, Run, log_of, said, snapshot


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

        assert full.returncode == 74, said(full) + log_of(run)
        assert "the disk is full" in said(full)
        assert str(disk) in said(full)
        assert "free some space and run again" in said(full)
        assert run.newest_step() == 2
        ballast.unlink()
        done = run.run()
        assert done.returncode == 0, said(done) + log_of(run)
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

        assert full.returncode == 74, said(full) + log_of(run)
        assert "the disk is full" in said(full)


def _checkpoint_bytes(digits: Path) -> int:
    """Weights, and two moments of each."""
    return 3 * (digits / "model/model.safetensors").stat().st_size
