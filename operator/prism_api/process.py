"""Ties the processes of a run together: none outlives the one that started it."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prism_api.names import ANCESTOR_VARIABLE

_PR_SET_PDEATHSIG = 1


def die_with_parent(ancestor: int | None) -> None:
    """Have the kernel kill this process when its parent ends (Linux; elsewhere it does nothing).

    It survives `exec`. If the process with the id `ancestor` is no longer among those above this
    one, it ends at once: the kernel tells only of deaths to come.
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
