"""Attempts and results as an executor could observe them."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

from prism_api.checkpoint import CheckpointRef
from prism_api.names import StageKind
from prism_api.stage_config import RunRef, StageResult
from prism_operator.planning.observation import AttemptObserved, RunObserved
from prism_operator.planning.plan import Plan
from report_builders import a_result
from run_builders import UID, a_plan


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
    """An attempt that its user or its runner stopped."""
    return AttemptObserved(number, "interrupted", started_at=started_at, ended_at=ended_at)


def preempted(number: int = 1) -> AttemptObserved:
    """An attempt whose machine was taken away."""
    return AttemptObserved(number, "preempted")


def a_proof(
    kind: StageKind,
    attempt: int = 1,
    *,
    after: StageResult | None = None,
    plan: Plan | None = None,
    uid: str = UID,
) -> StageResult:
    """The result of a stage of `plan` (absent: what `a_plan` plans) that started from the result
    `after`; of another run with another UID."""
    (step,) = [s for s in (plan or a_plan()).train_steps if s.kind == kind]
    uri = f"file:///store/{kind}/a{attempt}/step-9"
    checkpoint = CheckpointRef(uri=uri, digest=hashlib.sha256(uri.encode()).hexdigest())
    parent = after.checkpoint if after else None
    return a_result(
        kind,
        run=RunRef(namespace="default", name="run", uid=uid),
        attempt=attempt,
        checkpoint=checkpoint,
        config_hash=step.config(attempt, parent).config_hash,
    )


def observed(
    *,
    results: tuple[StageResult, ...] = (),
    suspend: bool = False,
    **attempts: Sequence[AttemptObserved],
) -> RunObserved:
    """What there is: `observed(sft=[running()])`."""
    return RunObserved(
        {cast(StageKind, kind): tuple(found) for kind, found in attempts.items()},
        {result.kind: result for result in results},
        suspend,
    )
