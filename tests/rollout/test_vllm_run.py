"""`prism run` with `rollout: {backend: vllm}`: killed anywhere, it uses every step, prompt and
sample exactly once, and no process outlives it.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from commands import ENVIRONMENT, PRISM
from prism_api.base import parse_json
from prism_api.exit_codes import ExitCode
from prism_api.stage_config import StageConfig
from prism_trainer.audit.__main__ import read_evidence
from prism_trainer.audit.checks import Evidence, find_problems
from run_builders import a_small_document, write_yaml
from stage_builders import (
    demonstrations,
    read_rows,
    run_to_end,
    sft_stage,
    stage_config,
    teacher_parts,
    with_long_prompt,
    with_truth,
    write_rows,
)

pytestmark = pytest.mark.vllm

PATIENCE_SECONDS = 1200
WARMUP, GAME, RLVR = 4, 12, 18
LIMITS = {"maxPromptTokens": 64, "maxResponseTokens": 40, "learningRate": 1e-4}


@pytest.fixture
def run_file(digits_folder: Path, tmp_path: Path) -> Path:
    """Alignment and DAPO of a policy that answers in the format, with 1 or 2 at random; two trainer
    processes share a server."""
    demos = write_rows(
        tmp_path / "demos.parquet", demonstrations(read_rows(digits_folder, 64, start=100))
    )
    warm = sft_stage(demos, steps=60, batch_size=16, checkpoint_every_steps=60)
    talker = run_to_end(stage_config(warm, digits_folder / "model", tmp_path), tmp_path).model
    rows = [with_truth(row, "1") for row in read_rows(digits_folder, 18)]
    rows = [with_long_prompt(row) if i % 6 == 5 else row for i, row in enumerate(rows)]
    prompts = write_rows(tmp_path / "prompts.parquet", [teacher_parts(row) for row in rows])
    data = {"uri": prompts.uri}
    align = {
        **LIMITS,
        "data": data,
        "steps": GAME,
        "batchSize": 4,
        "rolloutsPerPrompt": 4,
        "checkpointEverySteps": 2,
        "discriminator": {"warmup": {"steps": WARMUP, "batchSize": 4}},
    }
    rlvr = {
        **LIMITS,
        "algorithm": "dapo",
        "data": data,
        "steps": RLVR,
        "batchSize": 4,
        "generationBatchSize": 8,
        "rolloutsPerPrompt": 4,
        "checkpointEverySteps": 2,
    }
    changes = {
        "spec.model.uri": f"file://{talker}",
        "spec.stages": {"align": align, "rlvr": rlvr},
        "spec.workers.replicas": 2,
        "spec.rollout": {"backend": "vllm", "gpusPerReplica": 0},
        "spec.failurePolicy": {"maxRestarts": 9},
        "spec.evaluation": {"data": data, "maxSamples": 8, "maxResponseTokens": 40},
    }
    return write_yaml(tmp_path / "run.yaml", a_small_document(digits_folder, changes))


@pytest.fixture
def run(run_file: Path, tmp_path: Path) -> Iterator["Run"]:
    """Nothing of it outlives the test, however that ends."""
    run = Run(run_file, tmp_path / "out")
    yield run
    if run.process.poll() is None:
        run.process.kill()
        run.process.wait()


class Run:
    """A run's document and its folder."""

    def __init__(self, file: Path, out: Path) -> None:
        self.file, self.out = file, out
        self._chance = random.Random(0)
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """The command in the foreground of a terminal."""
        log = (self.out.parent / "prism.txt").open("ab")
        with log:
            self.process = subprocess.Popen(
                [PRISM, "run", str(self.file), "--out", str(self.out)],
                env=ENVIRONMENT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def strike(self, stage: str, attempt: int, after: range, strike: Callable[[], None]) -> None:
        """Do something at a random moment after so many iterations, and see the attempt end
        without a result."""
        iterations = self._chance.choice(after)
        self._wait_for(lambda: self._iterations(stage, attempt) >= iterations)
        time.sleep(self._chance.uniform(0.0, 0.5))
        strike()
        self._wait_for(lambda: not self._is_held(stage, attempt))
        assert not list(self.out.glob(f"store/*/*/*/{stage}/a{attempt}/result.json"))

    def kill_at_start(self) -> None:
        """The runner itself, once its first server has begun to start processes of its own."""
        self._wait_for(lambda: sum("rollout-0" in _folder(p) for p in self.processes()) > 1)
        self.kill()

    def _iterations(self, stage: str, attempt: int) -> int:
        """That the attempt has reported, those of earlier ones included."""
        path = self.out / f"work/{stage}/a{attempt}/progress.json"
        if not path.exists():
            return 0
        progress = json.loads(path.read_text())
        before = {"warmup": 0, "train": WARMUP if stage == "align" else 0, "evaluate": 99}
        return before[progress["phase"]] + int(progress["step"])

    def _is_held(self, stage: str, attempt: int) -> bool:
        """Whether any process works in the attempt's folder."""
        folder = f"work/{stage}/a{attempt}"
        return any(folder in _command(p) or folder in _folder(p) for p in self.processes())

    def kill_one(self, mark: str) -> None:
        """One of the run's processes, by what its command line says, or its title."""
        marked = [p for p in self.processes() if mark in _command(p)]
        assert marked, mark
        self._chance.choice(marked).kill()

    def kill(self) -> None:
        """The runner itself."""
        self.process.kill()

    def interrupt(self) -> None:
        """Ctrl-C, which reaches the whole process group of the terminal's foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> int:
        """Exit code, once it has ended; nothing is left of it."""
        code = self.process.wait(PATIENCE_SECONDS)
        psutil.wait_procs(self.processes(), timeout=20)
        assert self.processes() == [], "something outlives the run"
        return code

    def processes(self) -> list[psutil.Process]:
        """All that work in the run's folder: trainers, servers and what these have started."""
        found = []
        for process in psutil.process_iter():
            try:
                # A process that gives itself a title, as vLLM's do, writes over its environment.
                places = [process.cwd(), *process.environ().values()]
                is_ours = any(str(self.out) in place for place in places)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def config(self, stage: str) -> Path:
        """Of its last attempt."""
        numbered = self.out.glob(f"work/{stage}/a*/stage.json")
        return max(numbered, key=lambda path: int(path.parent.name[1:]))

    def evidence(self, stage: str) -> Evidence:
        """What its record says."""
        path = self.config(stage)
        return read_evidence(parse_json(StageConfig, path.read_bytes(), str(path)))

    def _wait_for(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert time.monotonic() < deadline, "what was waited for never came"
            time.sleep(0.05)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _folder(process: psutil.Process) -> str:
    try:
        return str(process.cwd())
    except psutil.Error:
        return ""


def fresh_gaps(evidence: Evidence) -> list[float]:
    """`rollout_gap_max` of the steps that were trained on no surplus of older weights."""
    return [
        float(metrics["rollout_gap_max"])
        for row, metrics in zip(evidence.rows, evidence.history, strict=True)
        if {use.position for part in row.trained for use in part}
        <= {group.position for group in row.drawn}
    ]


def test_a_run_that_is_killed_anywhere_uses_every_step_prompt_and_sample_once(
    run: Run,
) -> None:
    run.start()
    run.kill_at_start()
    assert run.ended() == -signal.SIGKILL
    run.start()
    run.strike("align", 2, range(2, 7), lambda: run.kill_one("VLLM::EngineCore"))
    run.strike("align", 3, range(9, 15), lambda: run.kill_one("prism_trainer.worker"))
    run.strike("rlvr", 1, range(2, 6), run.kill)
    assert run.ended() == -signal.SIGKILL
    run.start()
    run.strike("rlvr", 2, range(7, 11), run.interrupt)
    assert run.ended() == ExitCode.SAVED
    run.start()
    run.strike("rlvr", 3, range(12, 17), lambda: run.kill_one("prism_trainer.launch"))
    assert run.ended() == ExitCode.DONE

    report = json.loads((run.out / "report.json").read_text())
    assert [report["stages"][stage]["steps"] for stage in ("align", "rlvr")] == [GAME, RLVR]
    for stage, attempts, steps in (("align", 4, WARMUP + GAME), ("rlvr", 4, RLVR)):
        evidence = run.evidence(stage)
        assert find_problems(evidence) == []
        assert len(evidence.rows) == len(evidence.planned) == steps
        assert {row.attempt for row in evidence.rows} <= set(range(1, attempts + 1))
        assert len({row.attempt for row in evidence.rows}) >= 2, "something was saved and resumed"
        assert any(len(row.drawn) < row.end - row.first for row in evidence.rows), "over-long ones"
        kept = [row for i, row in enumerate(evidence.rows) if i != steps // 2]
        assert find_problems(replace(evidence, rows=tuple(kept)))
    gaps = fresh_gaps(run.evidence("rlvr"))
    assert len(gaps) >= 3
    assert 0 < max(gaps) < 1e-3, "in float32, where the server has the trainer's weights"
    command = [sys.executable, "-m", "prism_trainer.audit"]
    paths = [str(run.config(stage)) for stage in ("align", "rlvr")]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.count("each used once")) == (0, 2), done
