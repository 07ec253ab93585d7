"""Attempts and results as an executor could observe them."""

from typing import Any

from prism_api.checkpoint import CheckpointRef
from prism_api.names import StageKind
from prism_api.stage_config import RunRef, StageResult
from prism_operator.planning.observation import AttemptObserved, RunObserved
from report_builders import a_result
from run_builders import UID


def running(
    number: int = 1, started_at: float = 0.0, *, has_stepped: bool = True
) -> AttemptObserved:
    """An attempt that goes on."""
    return AttemptObserved(number, "running", started_at=started_at, has_stepped=has_stepped)


def ended(
    code: int | None, number: int = 1, started_at: float = 0.0, ended_at: float = 10.0, **more: Any
) -> AttemptObserved:
    """An attempt that ended by itself, with the code of its process."""
    facts: dict[str, Any] = {"message": f"why {code}", "has_stepped": True} | more
    return AttemptObserved(number, "ended", code, started_at=started_at, ended_at=ended_at, **facts)


def interrupted(number: int = 1, started_at: float = 0.0, ended_at: float = 0.0) -> AttemptObserved:
    """An attempt that was preempted."""
    return AttemptObserved(number, "interrupted", started_at=started_at, ended_at=ended_at)


def a_proof(kind: StageKind, attempt: int = 1, uid: str = UID) -> StageResult:
    """The result of a stage of the run that `a_plan` plans, or of another one."""
    checkpoint = CheckpointRef(uri=f"file:///store/{kind}/a{attempt}/step-9", digest="c" * 64)
    run = RunRef(namespace="default", name="run", uid=uid)
    return a_result(kind, run=run, attempt=attempt, checkpoint=checkpoint)


def observed(
    *, results: tuple[StageResult, ...] = (), suspend: bool = False, **attempts: Any
) -> RunObserved:
    """What there is: `observed(sft=[running()])`."""
    return RunObserved(
        {kind: tuple(found) for kind, found in attempts.items()},  # type: ignore[misc]
        {result.kind: result for result in results},
        suspend,
    )
