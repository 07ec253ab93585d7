"""What is seen of a stage's children, written short."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from prism_api.status import AttemptStatus
from prism_operator.planning.attempts import gang_digest
from prism_operator.planning.plan import TrainStep
from prism_operator.planning.sightings import ChildrenSeen, JobSeen, PodSeen
from run_builders import a_plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB_UID = "job-1"
Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]


def later(seconds: float) -> datetime:
    """So long after NOW."""
    return NOW + timedelta(seconds=seconds)


def a_step(replicas: int = 2) -> TrainStep:
    """SFT on so many pods."""
    return a_plan({"spec.workers": {"replicas": replicas}}).train_steps[0]


def a_pod(index: int = 0, phase: Phase = "Running", **facts: Any) -> PodSeen:
    """Of attempt 1 of SFT."""
    base = PodSeen(
        f"pod-{index}", f"run-sft-a1-worker-{index}", "trainer", "sft", 1, index, "Running",
        job_uid=JOB_UID,
    )  # fmt: skip
    return replace(base, phase=phase, **facts)


def failed(code: int | None, index: int = 0, message: str = "", **facts: Any) -> PodSeen:
    """A pod that ended with a code."""
    return a_pod(index, "Failed", exit_code=code, termination_message=message, **facts)


def a_job(**facts: Any) -> JobSeen:
    """Of attempt 1 of SFT."""
    return replace(JobSeen(JOB_UID, "run-sft-a1", "sft", 1, False, False), **facts)


def an_attempt(*, has_started: bool = True, **facts: Any) -> AttemptStatus:
    """Attempt 1, of two pods; `has_started`: all its pods have run."""
    attempt = AttemptStatus(number=1, started_at=NOW, admitted_at=NOW)
    if has_started:
        gang = gang_digest((a_pod(0), a_pod(1)))
        known = {"job_uid": JOB_UID, "gang": gang, "trainer_started_at": NOW}
        attempt = attempt.model_copy(update=known)
    return attempt.model_copy(update=facts)


def seen(*pods: PodSeen, job: JobSeen | None = None, **facts: Any) -> ChildrenSeen:
    """A job, unless there is none, and pods of it."""
    return ChildrenSeen(jobs=(job,) if job else (), pods=pods, **facts)
