"""Signals to stop, which reach the processes of an attempt through the launcher only, and an end
that nothing can spoil."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn


class StopSignals:
    """SIGTERM and SIGINT, caught as long as this process lives: the first asks the attempt to save
    itself and end, a second one ends it at once."""

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False
        self._stop_file: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._can_save: Callable[[], bool] = lambda: True
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def forward_to(self, stop_file: Path) -> None:
        """Make this file when a stop is requested; look at `requested` for one so far."""
        self._stop_file = stop_file

    def end(self, child: subprocess.Popen[bytes], can_save: Callable[[], bool]) -> None:
        """Kill this child when the attempt is to end at once, or already when it is asked to stop
        and has nothing that it could save; even if that was said before."""
        self._child, self._can_save = child, can_save
        if self.requested:
            self._end_child()

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        if self.requested or not self._ask():
            self.at_once = True
        self.requested = True
        self._end_child()

    def _end_child(self) -> None:
        if self._child is not None and (self.at_once or not self._can_save()):
            self.at_once = True
            self._child.kill()

    def _ask(self) -> bool:
        """Whether there was a way to ask: a full disk may have no room for the file."""
        with suppress(OSError):
            if self._stop_file is not None:
                self._stop_file.touch()
            return True
        return False


def end_process(code: int) -> NoReturn:
    """End now, without taking the interpreter down first.

    Threads of libraries may outlive what they were made for (gloo's, of a group that a device mesh
    still knows); one that asks for the lock of an interpreter that is going aborts the process, and
    torchrun then ends its peers (pytorch issue 190489).
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
