"""Runs one attempt of a stage: wraps torchrun and speaks the contract's exit codes.

`python -m prism_trainer.launch --config stage.json --work-folder DIR`. SIGTERM or SIGINT asks the
processes to save and end (exit code 75); a second signal ends them at once.
"""

import argparse
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from prism_api.base import parse_json
from prism_api.errors import FieldProblem, PrismError, SpecError
from prism_api.stage_config import StageConfig
from prism_store.store import store_errors
from prism_trainer.outcome import Outcome, combined_outcome, reserve_space, write_last_words
from prism_trainer.process import die_with_parent

STOP_FILE = "stop"
"""Its existence in the work folder asks all processes to save themselves and end."""
OUTCOME_FILE = "outcome.json"


def main() -> None:
    """Launch, wait, and exit with the attempt's code."""
    parser = argparse.ArgumentParser(
        prog="python -m prism_trainer.launch",
        description="Run one attempt of a stage under torchrun.",
        epilog="Exit codes: 0 done, 64 bad config, 65 bad data, 70 not finite, 74 store, 75 saved; "
        "anything else: crashed, try again.",
    )
    parser.add_argument("--config", type=Path, required=True, help="StageConfig as JSON")
    parser.add_argument(
        "--work-folder", type=Path, required=True, help="scratch folder, made if absent"
    )
    arguments = parser.parse_args()
    die_with_parent()
    folder: Path = arguments.work_folder
    try:
        outcome = _run(arguments.config, folder)
    except PrismError as error:
        outcome = Outcome(error.exit_code, str(error))
    _leave(folder, outcome)


def _run(config_path: Path, folder: Path) -> Outcome:
    config = read_config(config_path)
    with store_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _forget_earlier(folder)
        reserve_space(folder)
    processes = config.workers.world_size
    torchrun = subprocess.Popen(
        _command(config_path, folder, processes),
        env=_environment(config.workers.threads_per_process),
        preexec_fn=die_with_parent,  # this process has one thread, so the hook is safe
    )
    _forward_signals(torchrun, folder / STOP_FILE)
    torchrun.wait()
    return combined_outcome(folder, processes)


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


def _environment(threads: int) -> dict[str, str]:
    settings = {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on GPUs
    }
    return {**os.environ, **settings}


def _forget_earlier(folder: Path) -> None:
    for path in [folder / STOP_FILE, folder / OUTCOME_FILE, *folder.glob("outcome-*.json")]:
        path.unlink(missing_ok=True)


def _forward_signals(torchrun: subprocess.Popen[bytes], stop_file: Path) -> None:
    def on_signal(_: int, __: FrameType | None) -> None:
        if stop_file.exists():
            torchrun.kill()
        stop_file.touch()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def _leave(folder: Path, outcome: Outcome) -> None:
    with suppress(OSError):  # the exit code says the most important part
        write_last_words(folder, OUTCOME_FILE, outcome)
    with suppress(OSError):
        sys.stderr.write(outcome.message + "\n" * bool(outcome.message))
        sys.stderr.flush()
    # Not sys.exit: with a log on a full disk, Python's own flush would change the code to 120.
    os._exit(outcome.code)


if __name__ == "__main__":
    main()
