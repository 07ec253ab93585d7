"""What can go wrong with a rollout server, and what follows from it; pure."""

from dataclasses import dataclass
from enum import Enum

from prism_api.errors import RolloutError
from prism_api.rollout import REQUEST_ATTEMPTS


class Kind(Enum):
    """Kinds of faults that another try can mend, with what helps if they stay."""

    UNREACHABLE = "start the server again; its log says why it ended"
    TIMED_OUT = "see the server's log; give it more time or less work"
    STALLED = "the server computes nothing although it has work: see its log and restart it"
    FAILED = "see the server's log"
    WRONG_WEIGHTS = "does another trainer use the same server? give each run servers of its own"
    ABORTED = "does another trainer use the same server? give each run servers of its own"


class Fault(Exception):
    """One failed operation on one server."""

    def __init__(self, kind: Kind, server: str, operation: str, detail: str) -> None:
        self.kind, self.server, self.operation, self.detail = kind, server, operation, detail
        super().__init__(f"{server}: {operation}: {detail}")


@dataclass(frozen=True)
class Budget:
    """How much is forgiven."""

    attempts: int = REQUEST_ATTEMPTS
    outage_seconds: float = 60.0
    """Time without a sign of life from any server."""
    first_pause_seconds: float = 0.2
    """Before a server is tried again; doubled with every failure in a row."""
    longest_pause_seconds: float = 5.0
    """Limit of that."""


def pause_after(fault: Fault, failures: int, outage_seconds: float, budget: Budget) -> float:
    """Seconds to wait before the server is tried again.

    `failures` of it in a row, this one included; `outage_seconds` since the first fault that no
    sign of life from any server has followed. Raises RolloutError if that is too long.
    """
    if outage_seconds > budget.outage_seconds:
        raise given_up(fault, f"no rollout server for {outage_seconds:.0f} s")
    pause = budget.first_pause_seconds * 2.0 ** min(failures - 1, 30)
    return float(min(pause, budget.longest_pause_seconds))


def check_attempts(fault: Fault, attempts: int, budget: Budget) -> None:
    """Raises RolloutError if a request has been tried often enough."""
    if attempts >= budget.attempts:
        raise given_up(fault, f"given up after {attempts} attempts")


def given_up(fault: Fault, why: str) -> RolloutError:
    """The error that ends the stage's attempt, to be tried again from the last checkpoint."""
    return RolloutError(f"{fault} ({why}); {fault.kind.value}")
