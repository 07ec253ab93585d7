"""What tests of the launcher share: configs of seconds, results that look done, pods."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from commands import ENVIRONMENT, PATIENCE_SECONDS, launch_command
from prism_api.base import parse
from prism_api.checkpoint import CheckpointRef
from prism_api.run import PrismRun
from prism_api.stage_config import StageConfig, StageResult
from prism_api.uris import file_uri
from prism_operator.planning.plan import plan
from run_builders import UID, Changes, a_small_document

ENDLESS: Changes = {
    "spec.stages.sft.steps": 100_000,
    "spec.stages.sft.checkpointEverySteps": 50_000,
}
"""Ends only because somebody stops it."""


def an_sft_config(folder: Path, digits: Path, changes: Changes | None = None) -> StageConfig:
    """SFT for seconds, with its store in a folder."""
    run = parse(PrismRun, a_small_document(digits, changes or {}))
    (step,) = plan(run, UID, file_uri(folder / "store")).train_steps
    return step.config(1, None)


def written(config: StageConfig, folder: Path) -> Path:
    """The config's file."""
    path = folder / "stage.json"
    path.write_text(config.to_json())
    return path


def a_result(config: StageConfig) -> StageResult:
    """What the stage would leave, without the work."""
    return StageResult(
        run=config.run,
        kind=config.kind,
        attempt=config.attempt,
        config_hash=config.config_hash,
        steps=4,
        seconds=1.5,
        checkpoint=CheckpointRef(uri=f"{config.stage_uri}/a1/step-4", digest="0" * 64),
        evaluation=None,
    )


def put_result(config: StageConfig, text: str) -> Path:
    """Leave a text as the stage's result in its store; returns the object."""
    path = Path(config.stage_uri.removeprefix("file://")) / f"a{config.attempt}/result.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def a_free_port() -> int:
    """That nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until(happened: Callable[[], bool]) -> None:
    """Poll, for a bounded time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "what was waited for never came"
        time.sleep(0.05)


class Pod:
    """A launcher with a work folder of its own and the environment that a pod gives it."""

    def __init__(self, folder: Path, config: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        self.work, self.termination = folder / "work", folder / "termination-log"
        self.termination.touch()  # as the kubelet does
        self.log = folder / "log.txt"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                launch_command(config, self.work, "--checked"),
                env={
                    **ENVIRONMENT,
                    "PRISM_TERMINATION_FILE": str(self.termination),
                    "PET_NNODES": "7",  # as the Training Operator does, for others
                    "PET_NPROC_PER_NODE": "auto",
                    **environment,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(PATIENCE_SECONDS)

    def message(self) -> str:
        """What the kubelet shows of its end."""
        return self.termination.read_text()

    def said(self) -> str:
        """For the reader of a failed test."""
        return self.log.read_text()[-3000:]

    def has_stepped(self) -> bool:
        """Whether an iteration is done."""
        assert self.process.poll() is None, self.said()
        return (self.work / "progress.json").exists()

    def ranks_started(self) -> list[str]:
        """Of the processes that it has run."""
        return sorted(path.name.removeprefix("started-") for path in self.work.glob("started-*"))

    def words(self) -> dict[str, str | int]:
        """Its outcome file."""
        document: dict[str, str | int] = json.loads((self.work / "outcome.json").read_text())
        return document

    def kill(self) -> None:
        """As when its machine goes away."""
        if self.process.poll() is None:
            os.kill(self.process.pid, 9)
            self.process.wait()
