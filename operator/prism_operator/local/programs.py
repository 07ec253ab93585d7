"""Runs the programs of the trainer that a local run needs before its first stage."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from prism_api.errors import ProgramError
from prism_api.names import ANCESTOR_VARIABLE

_POLL_SECONDS = 0.2


def run_program(
    module: str, arguments: Sequence[str], stop_requested: Callable[[], bool] = lambda: False
) -> None:
    """Run a module to its end, or until a stop is requested, out of reach of the terminal's Ctrl-C.

    Raises ProgramError if it fails.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, ANCESTOR_VARIABLE: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    while True:
        try:
            _, errors = process.communicate(timeout=_POLL_SECONDS)
            break
        except subprocess.TimeoutExpired:
            if stop_requested():
                process.kill()
    if process.returncode and not stop_requested():
        code = process.returncode
        silent = (
            f"{module} ended with code {code}" if code > 0 else f"signal {-code} ended {module}"
        )
        raise ProgramError(code, errors.strip() or silent)
