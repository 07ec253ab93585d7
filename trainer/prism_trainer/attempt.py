"""One attempt of a stage: torchrun around the workers, and what they reported together."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from prism_api.base import parse_json
from prism_api.errors import FieldProblem, SpecError
from prism_api.exit_codes import ExitCode
from prism_api.names import ANCESTOR_VARIABLE
from prism_api.process import die_with_parent
from prism_api.stage_config import StageConfig
from prism_store.store import store_errors
from prism_trainer.metrics import PROGRESS_FILE
from prism_trainer.monitor import serve_progress
from prism_trainer.outcome import (
    Outcome,
    combined_outcome,
    forget_earlier,
    has_started,
    reserve_space,
)
from prism_trainer.pods import Pod, await_name, never_met, this_pod
from prism_trainer.process import StopSignals
from prism_trainer.reports import find_report

STOP_FILE = "stop"
"""Its existence in the work folder asks all processes to save themselves and end."""


def run_attempt(
    config_path: Path, folder: Path, signals: StopSignals, *, checked: bool = False
) -> Outcome:
    """Run the stage's processes to their end, or in a pod this pod's; `folder` is their scratch
    folder, made if absent. A stage whose result is in the store is done.

    Settings and every row of the data come first, unless the caller has `checked` them. Raises
    SpecError for a bad config, StoreError for a folder that cannot be written, FolderTaken for a
    result of other settings and RendezvousError for a first pod that cannot be found.
    """
    config = read_config(config_path)
    pod = this_pod(config.workers, os.environ)
    with store_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _forget_earlier(folder)
        reserve_space(folder)
    signals.forward_to(folder / STOP_FILE)
    if find_report(config) is not None:
        return Outcome(ExitCode.DONE)
    refusal = None if checked or signals.requested else _preflight(config_path, signals)
    if refusal is None and pod.meeting is not None:
        await_name(pod.meeting.host, lambda: signals.requested)
    if signals.requested:
        return Outcome(ExitCode.SAVED, "stopped before it had started")
    return refusal or _run_processes(config, config_path, folder, pod, signals)


def _run_processes(
    config: StageConfig, config_path: Path, folder: Path, pod: Pod, signals: StopSignals
) -> Outcome:
    torchrun = subprocess.Popen(
        _command(config_path, folder, pod),
        env=_environment(config.workers.threads_per_process),
        start_new_session=True,  # a signal to the launcher's group is the launcher's to forward
        # This process has one thread, so the hook is safe.
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    # While it waits for other pods nobody looks for the stop file.
    signals.end(torchrun, can_save=lambda: pod.meeting is None or has_started(folder))
    if pod.is_first:
        serve_progress(config, folder, os.environ)  # a thread: only now that nothing is forked
    torchrun.wait()
    outcome = combined_outcome(folder, pod.ranks)
    if outcome.code is not ExitCode.CRASHED:
        return outcome
    if signals.at_once:
        return Outcome(ExitCode.SAVED, "stopped at once; what counts is the last checkpoint")
    if pod.meeting is not None and not has_started(folder):
        return Outcome(ExitCode.CRASHED, never_met(pod.meeting))
    return outcome


def _preflight(config_path: Path, signals: StopSignals) -> Outcome | None:
    """What is wrong with the stage's settings or data, if anything is.

    A process of its own: beside pyarrow's threads no other process could be forked safely.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "prism_trainer.preflight", str(config_path)],
        env=os.environ | {ANCESTOR_VARIABLE: str(os.getpid())},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    signals.end(process, can_save=lambda: False)
    _, errors = process.communicate()
    if process.returncode == ExitCode.DONE:
        return None
    is_ours = process.returncode in set(ExitCode)
    code = ExitCode(process.returncode) if is_ours else ExitCode.CRASHED
    return Outcome(code, errors.decode(errors="replace").strip())


def read_config(path: Path) -> StageConfig:
    """The config in a file; raises SpecError if there is none."""
    try:
        text = path.read_bytes()
    except OSError as error:
        problem = FieldProblem(str(path), f"cannot be read ({error.strerror})", "check the path")
        raise SpecError([problem]) from None
    return parse_json(StageConfig, text, str(path))


def _command(config_path: Path, folder: Path, pod: Pod) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", *pod.torchrun_options()]
    worker = ["-m", "prism_trainer.worker", f"--config={config_path}", f"--work-folder={folder}"]
    return [sys.executable, *torchrun, *worker]


def _environment(threads: int) -> dict[str, str]:
    """Environment variables of torchrun and the workers, without the settings that the Training
    Operator makes for a torchrun of its own (`PET_*`)."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PET_")}
    return inherited | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on GPUs
        ANCESTOR_VARIABLE: str(os.getpid()),
    }


def _forget_earlier(folder: Path) -> None:
    forget_earlier(folder)
    for name in (STOP_FILE, PROGRESS_FILE):
        (folder / name).unlink(missing_ok=True)
