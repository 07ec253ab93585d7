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
from prism_trainer.outcome import OUTCOME_FILE, Outcome, combined_outcome, reserve_space
from prism_trainer.process import StopSignals

STOP_FILE = "stop"
"""Its existence in the work folder asks all processes to save themselves and end."""


def run_attempt(
    config_path: Path, folder: Path, signals: StopSignals, *, checked: bool = False
) -> Outcome:
    """Run the stage's processes to their end; `folder` is their scratch folder, made if absent.

    Settings and every row of the data come first, unless the caller has `checked` them. Raises
    SpecError for a bad config and StoreError for a folder that cannot be written.
    """
    config = read_config(config_path)
    with store_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _forget_earlier(folder)
        reserve_space(folder)
    signals.forward_to(folder / STOP_FILE)
    refusal = None if checked or signals.requested else _preflight(config_path, signals)
    if signals.requested:
        return Outcome(ExitCode.SAVED, "stopped before it had started")
    if refusal is not None:
        return refusal
    processes = config.workers.world_size
    torchrun = subprocess.Popen(
        _command(config_path, folder, processes),
        env=os.environ | _settings(config.workers.threads_per_process),
        start_new_session=True,  # a signal to the launcher's group is the launcher's to forward
        # This process has one thread, so the hook is safe.
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    signals.end(torchrun)
    torchrun.wait()
    outcome = combined_outcome(folder, processes)
    if signals.at_once and outcome.code is ExitCode.CRASHED:
        return Outcome(ExitCode.SAVED, "stopped at once; what counts is the last checkpoint")
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
    signals.end(process, at_first=True)  # it has nothing to save
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


def _command(config_path: Path, folder: Path, processes: int) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    worker = ["-m", "prism_trainer.worker", f"--config={config_path}", f"--work-folder={folder}"]
    return [sys.executable, *torchrun, *worker]


def _settings(threads: int) -> dict[str, str]:
    """Environment variables of torchrun and the workers."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on GPUs
        ANCESTOR_VARIABLE: str(os.getpid()),
    }


def _forget_earlier(folder: Path) -> None:
    for path in [folder / STOP_FILE, folder / OUTCOME_FILE, *folder.glob("outcome-*.json")]:
        path.unlink(missing_ok=True)
