"""Stopping the launcher, with real processes: whenever the signal comes, the launcher answers with
75, and none of its processes outlives it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from commands import ENVIRONMENT, PATIENCE_SECONDS
from prism_api.base import parse
from prism_api.names import ANCESTOR_VARIABLE
from prism_api.run import PrismRun
from prism_api.uris import file_uri
from prism_operator.planning.plan import plan
from run_builders import UID, Changes, a_small_document

ENDLESS: Changes = {
    "spec.stages.sft.steps": 100_000,
    "spec.stages.sft.checkpointEverySteps": 50_000,
}
"""Ends only because somebody stops it."""
AT_ONCE_SECONDS = 5
"""A worker takes longer to import torch, and much longer to get to its first step."""


class Attempt:
    """A launcher that runs, in a session of its own as the local runner starts it."""

    def __init__(self, folder: Path, config: Path, *, checked: bool) -> None:
        self.folder, self.work = folder, folder / "work"
        command = ["-m", "prism_trainer.launch", *["--checked"] * checked]
        command += [f"--config={config}", f"--work-folder={self.work}"]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(PATIENCE_SECONDS)

    def outcome(self) -> str:
        """Its last words, which must be those of its exit code."""
        document = json.loads((self.work / "outcome.json").read_text())
        assert document["code"] == self.process.returncode
        message: str = document["message"]
        return message

    def tree(self) -> list[psutil.Process]:
        """All processes below it, which runs."""
        assert self.process.poll() is None, "it ended before its time"
        return psutil.Process(self.process.pid).children(recursive=True)

    def has_torchrun(self) -> bool:
        """Whether torchrun was started."""
        return bool(self.tree())

    def has_workers(self) -> bool:
        """Whether torchrun has started its own processes."""
        return len(self.tree()) > 1

    def has_stepped(self) -> bool:
        """Whether the training is under way."""
        return bool(self.tree()) and (self.work / "progress.json").exists()

    def saved_steps(self) -> list[str]:
        """Complete checkpoints."""
        return [path.parent.name for path in self.folder.glob("store/**/manifest.json")]


@pytest.fixture(scope="module")
def document(digits_folder: Path) -> str:
    """The config of a stage that takes forever; its store is filled in by the test."""
    run = parse(PrismRun, a_small_document(digits_folder, ENDLESS))
    (step,) = plan(run, UID, "file:///STORE").train_steps
    return step.config(1, None).to_json()


@pytest.fixture
def config(document: str, tmp_path: Path) -> str:
    """That config with a store of the test's own."""
    return document.replace("file:///STORE", file_uri(tmp_path / "store"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Attempt]]:
    """Starts launchers; whatever still runs at the end of the test is killed."""
    started: list[Attempt] = []

    def start(config: Path, *, checked: bool = True) -> Attempt:
        started.append(Attempt(tmp_path, config, checked=checked))
        return started[-1]

    yield start
    for attempt in started:
        if attempt.process.poll() is None:
            attempt.process.kill()
            attempt.process.wait()


@pytest.fixture
def attempt(start: Callable[..., Attempt], config: str, tmp_path: Path) -> Attempt:
    """One that was just started."""
    path = tmp_path / "stage.json"
    path.write_text(config)
    return start(path)


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "what was waited for never came"
        time.sleep(0.01)


def is_checking(attempt: Attempt) -> bool:
    """Whether a program that checks the data runs under its own name."""
    return any("prism_trainer.preflight" in process.cmdline() for process in attempt.tree())


def catches_sigterm(process: subprocess.Popen[bytes]) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_stop_before_the_config_is_read_starts_nothing(
    start: Callable[..., Attempt], config: str, tmp_path: Path, number: signal.Signals
) -> None:
    pipe = tmp_path / "stage.json"
    os.mkfifo(pipe)
    attempt = start(pipe)
    wait_until(lambda: catches_sigterm(attempt.process))

    attempt.process.send_signal(number)
    pipe.write_text(config)  # it reads no sooner than this

    assert attempt.end() == 75
    assert attempt.outcome() == "stopped before it had started"
    assert attempt.saved_steps() == []


def test_a_stop_ends_the_check_of_the_data_and_starts_nothing(
    start: Callable[..., Attempt], config: str, tmp_path: Path
) -> None:
    path = tmp_path / "stage.json"
    path.write_text(config)
    attempt = start(path, checked=False)
    wait_until(lambda: is_checking(attempt))
    (check,) = attempt.tree()
    check.suspend()  # so that it cannot get to its end by itself

    attempt.process.terminate()

    assert attempt.end() == 75
    assert attempt.outcome() == "stopped before it had started"
    assert attempt.saved_steps() == []
    assert not check.is_running()


@pytest.mark.slow
def test_a_stop_while_torchrun_starts_is_heard_before_the_first_step(attempt: Attempt) -> None:
    wait_until(attempt.has_torchrun)

    attempt.process.terminate()

    assert attempt.end() == 75
    assert attempt.outcome() == ""
    assert attempt.saved_steps() == ["step-0"]


@pytest.mark.slow
def test_a_signal_to_the_launchers_whole_group_leaves_the_workers_time_to_save(
    attempt: Attempt,
) -> None:
    wait_until(attempt.has_stepped)

    os.killpg(attempt.process.pid, signal.SIGINT)

    assert attempt.end() == 75
    (saved,) = attempt.saved_steps()
    assert int(saved.removeprefix("step-")) >= 1


@pytest.mark.slow
def test_a_second_signal_ends_everything_at_once(attempt: Attempt) -> None:
    wait_until(attempt.has_workers)
    tree = attempt.tree()
    started = time.monotonic()

    attempt.process.terminate()
    attempt.process.terminate()
    attempt.process.send_signal(signal.SIGINT)  # two equal ones may reach it as one

    assert attempt.end() == 75
    assert psutil.wait_procs(tree, timeout=AT_ONCE_SECONDS)[1] == []
    assert time.monotonic() - started < AT_ONCE_SECONDS
    assert "stopped at once" in attempt.outcome()
    assert attempt.saved_steps() == []


@pytest.mark.slow
def test_a_stop_that_cannot_be_passed_on_ends_everything_at_once(
    attempt: Attempt, tmp_path: Path
) -> None:
    wait_until(attempt.has_torchrun)
    attempt.work.rename(tmp_path / "moved")
    started = time.monotonic()

    attempt.process.terminate()

    assert attempt.end() == 75
    assert time.monotonic() - started < AT_ONCE_SECONDS


@pytest.mark.slow
def test_no_process_outlives_a_launcher_that_was_killed(attempt: Attempt) -> None:
    wait_until(attempt.has_workers)
    tree = attempt.tree()

    attempt.process.kill()

    assert psutil.wait_procs(tree, timeout=AT_ONCE_SECONDS)[1] == []


@pytest.mark.slow
def test_nor_one_whose_torchrun_was_killed_and_that_is_a_crash(attempt: Attempt) -> None:
    wait_until(attempt.has_workers)
    torchrun, *workers = attempt.tree()

    torchrun.kill()

    assert attempt.end() == 1
    assert "ended without a word" in attempt.outcome()
    assert psutil.wait_procs(workers, timeout=AT_ONCE_SECONDS)[1] == []


TIED = """
import os, sys, time
time.sleep(float(sys.argv[1]))
from prism_api.process import die_with_parent, inherited_ancestor
die_with_parent(inherited_ancestor())
print("alive", flush=True)
time.sleep(60)
"""


def a_process_tied_to(ancestor: int, *, after_seconds: float = 0, between: str = "") -> str:
    """What a process says that ties itself to an ancestor, as a grandchild if `between` is the
    program of its parent."""
    tied = [sys.executable, "-c", TIED, str(after_seconds)]
    command = [sys.executable, "-c", between, *tied] if between else tied
    environment = ENVIRONMENT | {ANCESTOR_VARIABLE: str(ancestor)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.kill()
    return said.strip()


WAITS = "import subprocess, sys; subprocess.run(sys.argv[1:])"
LEAVES = "import subprocess, sys; subprocess.Popen(sys.argv[1:])"


def test_a_process_lives_below_its_ancestor() -> None:
    assert a_process_tied_to(os.getpid()) == "alive"
    assert a_process_tied_to(os.getpid(), between=WAITS) == "alive"


def test_a_process_whose_parent_died_before_it_could_tie_itself_ends() -> None:
    # Its pipe closes without a word: nobody holds the other end any more.
    assert a_process_tied_to(os.getpid(), after_seconds=0.5, between=LEAVES) == ""


def test_a_process_that_was_never_below_the_ancestor_ends() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        assert a_process_tied_to(stranger.pid) == ""
        stranger.kill()
