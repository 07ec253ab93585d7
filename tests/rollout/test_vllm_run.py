"""`prism run` with `rollout: {backend: vllm}`: a real server for the stage, and none afterwards."""

import json
import signal
from pathlib import Path

import psutil
import pytest

import commands
from commands import prism, prism_interrupted
from prism_api.exit_codes import ExitCode
from prism_api.uris import file_uri
from run_builders import a_small_document, write_yaml

pytestmark = pytest.mark.vllm

STEPS = 12


@pytest.fixture
def run_file(digits_folder: Path, tmp_path: Path) -> Path:
    rlvr = {
        "algorithm": "grpo",
        "data": {"uri": file_uri(digits_folder / "rlvr.parquet")},
        "steps": STEPS,
        "batchSize": 4,
        "rolloutsPerPrompt": 4,
        "learningRate": 1e-3,
        "klCoef": 0.01,
        "maxPromptTokens": 64,
        "maxResponseTokens": 16,
        "checkpointEverySteps": 1,
    }
    changes = {
        "spec.stages": {"rlvr": rlvr},
        "spec.rollout": {"backend": "vllm", "gpusPerReplica": 0},
        "spec.evaluation": {
            "data": {"uri": file_uri(digits_folder / "heldout.parquet")},
            "maxSamples": 8,
            "maxResponseTokens": 16,
        },
    }
    return write_yaml(tmp_path / "run.yaml", a_small_document(digits_folder, changes))


def processes_of(out: Path) -> list[psutil.Process]:
    """Everything that works in the run's folder: trainers, servers and what these have started."""
    found = []
    for process in psutil.process_iter():
        try:
            works_there = str(out) in " ".join(process.environ().values())
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if works_there and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


class Run:
    """A run's document and its folder."""

    def __init__(self, file: Path, out: Path) -> None:
        self.file, self.out = file, out

    def to_end(self) -> int:
        """Exit code."""
        return prism("run", self.file, "--out", self.out).returncode

    def interrupted(self, number: int) -> int:
        """Exit code if a signal comes after the newest attempt's first step."""
        attempt = self.attempts() + 1
        progress = self.out / f"work/rlvr/a{attempt}/progress.json"
        done = prism_interrupted(
            "run", self.file, "--out", self.out, when=progress.exists, number=number
        )
        return done.returncode

    def attempts(self) -> int:
        """So far."""
        return len(list(self.out.glob("work/rlvr/a*")))

    def history(self) -> list[dict[str, float]]:
        """Metrics of every step, as the last attempt leaves them."""
        (path,) = self.out.glob(f"store/*/*/*/rlvr/a{self.attempts()}/metrics.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_stage_on_a_real_server_is_killed_stopped_and_finished_and_leaves_no_process(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PATIENCE_SECONDS", 2400)
    run = Run(run_file, tmp_path / "out")

    assert run.interrupted(signal.SIGKILL) == -signal.SIGKILL
    psutil.wait_procs(processes_of(run.out), timeout=20)
    assert processes_of(run.out) == [], "something outlives a killed runner"

    assert run.interrupted(signal.SIGINT) == ExitCode.SAVED
    assert processes_of(run.out) == [], "something outlives a stopped run"

    assert run.to_end() == ExitCode.DONE
    assert processes_of(run.out) == [], "something outlives a finished run"
    assert run.attempts() == 3
    assert [row["step"] for row in run.history()] == list(range(1, STEPS + 1))
    gaps = [row["rollout_gap_max"] for row in run.history()]
    assert len(gaps) == STEPS
    assert 0 < max(gaps) < 1e-3, "in float32, where the server has the trainer's weights"
    report = json.loads((run.out / "report.json").read_text())
    assert report["stages"]["rlvr"]["steps"] == STEPS
