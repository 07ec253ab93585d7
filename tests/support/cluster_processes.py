"""Folders and processes of test clusters, none of which outlives its test session."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import psutil

from prism_api.process import die_with_parent

PREFIX = "prism-cluster-"


class ClusterFolder:
    """A new temporary folder that is known to be in use for as long as this process lives."""

    def __init__(self) -> None:
        new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
        self._lock = _owned(new)
        # Under its lasting name only once it is locked: before that it would look left over.
        self.path = new.rename(new.with_name(new.name.removeprefix(".")))

    def remove(self) -> None:
        """Remove it with all that is in it; nothing may run in it any more."""
        # Once the lock's file is gone, another session may take it for left over and help.
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock:
            self._lock.close()


def remove_leftovers() -> list[Path]:
    """End processes and remove folders of clusters whose session was killed; returns the folders.

    A cluster in use is known by its lock, which the kernel lets go of however its session ends.
    """
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError):  # another session removes it too
            if folder.stat().st_uid == os.getuid() and (lock := _owned(folder)):
                _kill_processes_of(folder)
                shutil.rmtree(folder, ignore_errors=True)
                lock.close()
                removed.append(folder)
    return removed


def _owned(folder: Path) -> IO[str] | None:
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _kill_processes_of(folder: Path) -> None:
    killed = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(f"{folder}/" in argument for argument in process.cmdline()):
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=10)


class ClusterProcess:
    """A process that ends with the thread that starts it; its output goes to a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
        self.log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise RuntimeError with the end of its log if it has ended."""
        if (code := self._process.poll()) is not None:
            raise RuntimeError(f"{self.log.stem} ended with {code}; {self.last_lines()}")

    def last_lines(self) -> str:
        """The end of its log, with the log's name."""
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return "\n".join([f"the last lines of {self.log.name}:", *lines])

    def pause(self) -> None:
        """Let it hang: connections stay open and nothing answers. It hangs when this returns."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without any notice, also when it is paused or has ended."""
        self._process.kill()
        self._process.wait()
