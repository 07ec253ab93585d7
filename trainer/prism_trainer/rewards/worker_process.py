"""A handle on one worker process: send it a formula, receive what that is worth, end it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from decimal import Decimal

from prism_trainer.rewards.values import Values

READY = "ready"
"""A worker's first line: it is about to read formulas."""
OUT_OF_MEMORY = 77
"""Its exit status then."""
TOO_SLOW = -signal.SIGPROF
"""The exit status, as `subprocess` gives it, of one whose processor time was used up."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """How much the evaluation of one formula may take."""

    cpu_seconds: float = 2.0
    """Processor time; an ordinary formula takes a millisecond."""
    memory_bytes: int = 512 * 2**20
    """Address space of the process."""
    wall_seconds: float = 120.0
    """A worker that gives no sign for so long is killed: the machine is at fault, not a formula."""


class WorkerProcess:
    """A worker that evaluates one formula at a time."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits = limits
        program = ["-P", "-m", "prism_trainer.rewards.worker"]
        arguments = [str(limits.cpu_seconds), str(limits.memory_bytes)]
        self._process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._received = b""
        self._sent_at = 0.0
        self.is_ready = False
        self.served = 0

    def fileno(self) -> int:
        """What becomes readable when the worker replies or ends."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def send(self, formula: str) -> None:
        """Hand over a formula; a worker that has ended meanwhile shows it on `receive`."""
        assert self._process.stdin is not None
        self._sent_at = time.monotonic()
        try:
            self._process.stdin.write(formula.encode() + b"\n")
        except BrokenPipeError:
            self.kill()

    def receive(self) -> Values | None:
        """The reply, or None if it is not complete yet; raises EOFError when the worker ended."""
        chunk = os.read(self.fileno(), 65536)
        if not chunk:
            raise EOFError
        self._received += chunk
        while b"\n" in self._received:
            line, _, self._received = self._received.partition(b"\n")
            reply = json.loads(line)
            if reply != READY:
                self.served += 1
                return tuple((Decimal(v[0]), Decimal(v[1])) if v else None for v in reply)
            self.is_ready, self._sent_at = True, time.monotonic()
        return None

    def seconds_left(self) -> float:
        """Until the worker counts as hung; negative when it does."""
        return self._sent_at + self._limits.wall_seconds - time.monotonic()

    def kill(self) -> None:
        """End the worker without waiting for it: `receive` then raises."""
        self._process.kill()

    def end(self) -> int:
        """Kill the worker if it still runs; returns how it ended, as `subprocess` does."""
        self.kill()  # an exit that has begun keeps its status
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return status
