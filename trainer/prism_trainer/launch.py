"""Runs one attempt of a stage: wraps torchrun and speaks the contract's exit codes.

`python -m prism_trainer.launch --config stage.json --work-folder DIR`. SIGTERM or SIGINT asks the
processes to save and end (exit code 75); a second signal ends them at once (75 too: no fault, the
last checkpoint counts).
"""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path

from prism_api.errors import PrismError
from prism_api.process import die_with_parent, inherited_ancestor
from prism_trainer.outcome import OUTCOME_FILE, Outcome, write_last_words
from prism_trainer.process import StopSignals


def main() -> None:
    """Launch, wait, and exit with the attempt's code."""
    signals = StopSignals()  # before all else: whoever stops this process gets an answer
    die_with_parent(inherited_ancestor())
    arguments = _parser().parse_args()
    # Only now what takes a moment to import, such as pydantic.
    from prism_trainer.attempt import run_attempt

    try:
        outcome = run_attempt(
            arguments.config, arguments.work_folder, signals, checked=arguments.checked
        )
    except PrismError as error:
        outcome = Outcome(error.exit_code, str(error))
    _leave(arguments.config, arguments.work_folder, outcome)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prism_trainer.launch",
        description="Run one attempt of a stage under torchrun.",
        epilog="Exit codes: 0 done, 64 bad config, 65 bad data, 70 not finite, "
        "73 a result of other settings, 74 store, 75 saved; anything else: crashed, try again.",
    )
    parser.add_argument("--config", type=Path, required=True, help="StageConfig as JSON")
    parser.add_argument(
        "--work-folder", type=Path, required=True, help="scratch folder, made if absent"
    )
    parser.add_argument(
        "--checked", action="store_true", help="settings and data have passed the preflight"
    )
    return parser


def _leave(config: Path, folder: Path, outcome: Outcome) -> None:
    from prism_trainer.termination import write_message

    write_message(config, outcome, os.environ)
    with suppress(OSError):  # the exit code says the most important part
        write_last_words(folder, OUTCOME_FILE, outcome)
    with suppress(OSError):
        sys.stderr.write(outcome.message + "\n" * bool(outcome.message))
        sys.stderr.flush()
    # Not sys.exit: with a log on a full disk, Python's own flush would change the code to 120.
    os._exit(outcome.code)


if __name__ == "__main__":
    main()
