"""The real commands in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PRISM = str(Path(sys.executable).with_name("prism"))
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
    "CUDA_VISIBLE_DEVICES": "",
}
"""One thread, no network, wide lines, and no GPU on any machine."""
PATIENCE_SECONDS = 240


def python_path(first: Path) -> str:
    """PYTHONPATH with a folder before all others."""
    return os.pathsep.join([str(first), *filter(None, [os.environ.get("PYTHONPATH")])])


Done = subprocess.CompletedProcess[str]


def prism(*arguments: str | Path) -> Done:
    """`prism` with its output."""
    return _run([PRISM, *map(str, arguments)])


def launch(
    config: Path, work: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Done:
    """One attempt of a stage."""
    return _run(launch_command(config, work, *options), environment)


def launch_command(config: Path, work: Path, *options: str) -> list[str]:
    """The launcher."""
    command = [sys.executable, "-m", "prism_trainer.launch", *options]
    return [*command, f"--config={config}", f"--work-folder={work}"]


def prism_interrupted(
    *arguments: str | Path, when: Callable[[], bool], number: int = signal.SIGINT, times: int = 1
) -> Done:
    """`prism` in the foreground of a terminal, where Ctrl-C reaches the whole process group;
    several come one right after the other."""
    process = subprocess.Popen(
        [PRISM, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not when():
            assert process.poll() is None, "it ended before it could be interrupted"
            assert time.monotonic() < deadline, "what was waited for never came"
            time.sleep(0.02)
        for _ in range(times):
            os.killpg(process.pid, number)
            time.sleep(0.05)  # two pending signals of one kind are delivered as one
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, output, "")


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> Done:
    return subprocess.run(
        command,
        env={**ENVIRONMENT, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
