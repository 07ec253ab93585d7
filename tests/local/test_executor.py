"""Ending attempts: with a request, and with force where that does not help."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prism_api.uris import file_uri
from prism_operator.local import executor as executor_module
from prism_operator.local.executor import LocalExecutor
from prism_operator.local.folder import open_folder
from prism_operator.planning.decide import StartAttempt, StopAttempt
from report_builders import a_result
from run_builders import a_plan, a_prism_run

START = StartAttempt("sft", 1, None)
STOP = StopAttempt("sft", 1, "suspended")
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)"


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalExecutor]:
    """One whose attempts hang and do not listen, with half a second of grace."""
    command = [sys.executable, "-c", f"{DEAF}; time.sleep(60)"]
    monkeypatch.setattr(executor_module, "_command", lambda work: command)
    folder = open_folder(tmp_path / "run", a_prism_run())
    plan = a_plan()
    steps = tuple(replace(s, stage_uri=file_uri(tmp_path / s.kind)) for s in plan.train_steps)
    executor = LocalExecutor(replace(plan, steps=steps), folder, stop_grace_seconds=0.5)
    executor.start(START)
    log = folder.work("sft", 1) / "log.txt"
    wait_until(lambda: log.read_text() == "1\n")
    yield executor
    executor.kill()
    folder.close()


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def state_of(executor: LocalExecutor) -> tuple[str, int | None]:
    (attempt,) = executor.observe(suspend=False).attempts["sft"]
    return attempt.state, attempt.exit_code


def test_an_attempt_that_is_asked_to_stop_is_left_its_time(executor: LocalExecutor) -> None:
    executor.stop(STOP)
    executor.stop(STOP)

    assert state_of(executor) == ("running", None)


def test_an_attempt_that_does_not_stop_in_time_is_killed(executor: LocalExecutor) -> None:
    executor.stop(STOP)
    time.sleep(0.6)
    executor.stop(STOP)

    wait_until(lambda: state_of(executor) == ("ended", -9))
    assert state_of(executor) == ("ended", -9), "and so it stays"


def test_of_several_results_that_of_the_latest_attempt_counts(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    for number in (9, 10):
        folder = tmp_path / f"sft/a{number}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(a_result("sft", attempt=number).to_json())

    assert executor.observe(suspend=False).results["sft"].attempt == 10
