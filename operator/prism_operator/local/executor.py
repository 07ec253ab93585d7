"""Carries out actions of the plan as subprocesses, and observes what became of them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prism_api.names import ANCESTOR_VARIABLE, StageKind
from prism_operator.local.folder import RunFolder
from prism_operator.local.servers import with_servers
from prism_operator.planning.decide import StartAttempt, StopAttempt
from prism_operator.planning.observation import AttemptObserved, RunObserved
from prism_operator.planning.plan import Plan, ServeStep
from prism_store.results import newest_result
from prism_store.store import open_store, store_errors

_STOP_GRACE_SECONDS = 600.0
"""A step of a large model and its checkpoint fit in; what takes longer hangs."""


@dataclass(frozen=True)
class Progress:
    """What an attempt reported last."""

    stage: StageKind
    phase: str
    step: int
    steps: int
    eta_seconds: float | None
    metrics: dict[str, float]


class LocalExecutor:
    """Attempts of this invocation are processes; those of earlier ones are only folders."""

    def __init__(
        self, plan: Plan, folder: RunFolder, stop_grace_seconds: float = _STOP_GRACE_SECONDS
    ) -> None:
        self._plan, self._folder = plan, folder
        self._steps = {step.kind: step for step in plan.train_steps}
        self._served = {step.kind for step in plan.steps if isinstance(step, ServeStep)}
        self._processes: dict[tuple[StageKind, int], subprocess.Popen[bytes]] = {}
        self._observed: dict[tuple[StageKind, int], AttemptObserved] = {}
        self._stop_grace_seconds = stop_grace_seconds
        self._asked_to_stop: dict[tuple[StageKind, int], float] = {}

    def observe(self, suspend: bool) -> RunObserved:
        """Everything that `decide` needs to know."""
        attempts = {}
        results = {}
        for kind, step in self._steps.items():
            numbers = self._folder.attempts(kind)
            attempts[kind] = tuple(self._attempt(kind, number) for number in numbers)
            stored = newest_result(open_store(step.stage_uri))
            if stored is not None:
                results[kind] = stored.result
        return RunObserved(attempts, results, suspend)

    def _attempt(self, kind: StageKind, number: int) -> AttemptObserved:
        process = self._processes.get((kind, number))
        if process is None:
            return AttemptObserved(number, "interrupted")
        observed = self._observed[kind, number]
        if observed.state == "running":
            code = process.poll()
            observed = replace(observed, has_stepped=self.progress(kind, number) is not None)
            if code is not None:
                message = self._message(kind, number)
                now = time.time()
                observed = replace(
                    observed, state="ended", exit_code=code, message=message, ended_at=now
                )
            self._observed[kind, number] = observed
        return observed

    def start(self, action: StartAttempt) -> None:
        """Write the stage's config and start its launcher, out of reach of the terminal's
        Ctrl-C."""
        work = self._folder.work(action.kind, action.attempt)
        config = self._steps[action.kind].config(action.attempt, action.init_from)
        with store_errors(work):
            work.mkdir(parents=True, exist_ok=True)
            (work / "stage.json").write_text(config.to_json())
            log = (work / "log.txt").open("ab")
        command = _command(work)
        if self.is_served(action.kind):
            command = with_servers(work, command)
        with log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=_environment(work),
                start_new_session=True,
            )
        key = (action.kind, action.attempt)
        self._processes[key] = process
        self._observed[key] = AttemptObserved(action.attempt, "running", started_at=time.time())

    def is_served(self, kind: StageKind) -> bool:
        """Whether a stage samples from rollout servers, which start and end with its attempts."""
        return kind in self._served

    def stop(self, action: StopAttempt) -> None:
        """Ask an attempt to save itself; one that still runs after the grace period is killed."""
        key, now = (action.kind, action.attempt), time.monotonic()
        process = self._processes[key]
        if key not in self._asked_to_stop:
            self._asked_to_stop[key] = now
            process.send_signal(signal.SIGTERM)
        elif now - self._asked_to_stop[key] > self._stop_grace_seconds and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End everything that still runs, at once."""
        for process in self._processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def progress(self, kind: StageKind, number: int) -> Progress | None:
        """The newest report of an attempt, if there is one."""
        path = self._folder.work(kind, number) / "progress.json"
        try:
            document: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        return Progress(**document)

    def _message(self, kind: StageKind, number: int) -> str:
        work = self._folder.work(kind, number)
        outcome = work / "outcome.json"
        message = json.loads(outcome.read_text())["message"] if outcome.is_file() else ""
        return message or f"the launcher was killed; see {work / 'log.txt'}"

    def running(self) -> Iterator[tuple[StageKind, int]]:
        """Attempts that have not ended yet."""
        for key, observed in self._observed.items():
            if observed.state == "running":
                yield key


def _command(work: Path) -> list[str]:
    launcher = [sys.executable, "-m", "prism_trainer.launch", "--checked"]
    return [*launcher, f"--config={work / 'stage.json'}", f"--work-folder={work}"]


def _environment(work: Path) -> dict[str, str]:
    """Caches of libraries stay in the run's folder instead of littering home and /tmp."""
    caches = {"TMPDIR": str(work), "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}
    return {**os.environ, **caches, ANCESTOR_VARIABLE: str(os.getpid())}
