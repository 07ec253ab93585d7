"""Ties the processes of an attempt together: none outlives the one that started it, and a signal to
stop reaches them through the launcher only."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

from prism_api.names import ANCESTOR_VARIABLE

_PR_SET_PDEATHSIG = 1


def die_with_parent(ancestor: int | None) -> None:
    """Have the kernel kill this process when its parent ends (Linux; elsewhere it does nothing).

    Otherwise trainers would go on, unseen, after a runner that was killed. If the process with the
    id `ancestor` is no longer among those above this one, it ends at once: the kernel tells only of
    deaths to come.
    """
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if ancestor is not None and ancestor not in _ancestors():
        os.kill(os.getpid(), signal.SIGKILL)


def inherited_ancestor() -> int | None:
    """The process that has said of itself that those below it end with it."""
    pid = os.environ.get(ANCESTOR_VARIABLE)
    return None if pid is None else int(pid)


def _ancestors() -> Iterator[int]:
    pid = os.getppid()
    with suppress(OSError):  # one of them ended just now
        while pid > 0:
            yield pid
            # The name, in brackets, may hold spaces and brackets itself; the state follows it.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            pid = int(fields[1])


class StopSignals:
    """SIGTERM and SIGINT, caught as long as this process lives: the first asks the attempt to save
    itself and end, a second one ends it at once."""

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False
        self._stop_file: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._at_first = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def forward_to(self, stop_file: Path) -> None:
        """Make this file when a stop is requested; look at `requested` for one so far."""
        self._stop_file = stop_file

    def end(self, child: subprocess.Popen[bytes], *, at_first: bool = False) -> None:
        """Kill this child when the attempt is to end at once, or already when it is asked to stop
        (`at_first`); even if that was said before."""
        self._child, self._at_first = child, at_first
        if self.at_once or (at_first and self.requested):
            child.kill()

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        if self.requested or not self._ask():
            self.at_once = True
        self.requested = True
        if self._child is not None and (self.at_once or self._at_first):
            self._child.kill()

    def _ask(self) -> bool:
        """Whether there was a way to ask: a full disk may have no room for the file."""
        with suppress(OSError):
            if self._stop_file is not None:
                self._stop_file.touch()
            return True
        return False
