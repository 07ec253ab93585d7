"""What an attempt's pods and PyTorchJob say of it: pure, and the same however often it is asked.

`observe_attempt` brings the stored record of an attempt up to date. What it finds is stored before
any child is deleted, so that nothing has to be found twice.
"""

import hashlib
from datetime import UTC, datetime

from prism_api.base import parse_json
from prism_api.errors import SpecError
from prism_api.exit_codes import WORST_FIRST, ExitCode, meaning_of
from prism_api.names import StageKind
from prism_api.reporting import StageReport
from prism_api.status import AttemptStatus
from prism_operator.planning.plan import TrainStep
from prism_operator.planning.remedies import with_remedy
from prism_operator.planning.sightings import ChildrenSeen, JobSeen, PodSeen, names_of

STRAGGLER_SECONDS = 10.0
"""After a pod of a gang has failed, the others have so long to say why: the one that ended first
is not always the one that knows."""


def observe_attempt(
    step: TrainStep, attempt: AttemptStatus, seen: ChildrenSeen, now: datetime
) -> AttemptStatus:
    """The record of an attempt that is not over, with what its children show now."""
    job = seen.job_of(step.kind, attempt.number)
    pods = seen.gang(step.kind, attempt.number)
    if job is not None:
        pods = tuple(p for p in pods if p.job_uid == job.uid)
    attempt = _progressed(step, attempt, job, pods, seen, now)
    if job is None or attempt.job_uid not in (None, job.uid):
        return _without_job(attempt, pods, now)
    if attempt.job_uid is None and job.is_deleting:
        return attempt
    lost = _lost(attempt, job, pods)
    if lost and not attempt.stopping:
        return _over(attempt, "preempted", now, lost)
    if _is_over(step, attempt, job, pods, now):
        return _ended(step, attempt, job, pods, now)
    return attempt


def report_of(step: TrainStep, attempt: int, seen: ChildrenSeen) -> StageReport | None:
    """The proof that rank 0 of an attempt has left, if it is one of this very attempt's stage."""
    for pod in seen.gang(step.kind, attempt):
        if pod.index == 0 and pod.exit_code == ExitCode.DONE:
            try:
                report = parse_json(StageReport, pod.termination_message, pod.name)
            except SpecError:
                continue
            if report.result.run.uid == step.run.uid and report.result.kind == step.kind:
                return report
    return None


def is_draining(seen: ChildrenSeen, step: TrainStep, attempt: int) -> bool:
    """Whether an attempt that is over still holds machines, or may take some again: the Training
    Operator makes the missing pods of a job that goes on."""
    job, pods = seen.job_of(step.kind, attempt), seen.gang(step.kind, attempt)
    goes_on = job is not None and not job.is_finished and not job.is_deleting
    return (goes_on and len(pods) < step.workers.replicas) or any(not p.is_over for p in pods)


def gang_digest(pods: tuple[PodSeen, ...]) -> str:
    """Which pods a gang consists of, as a few characters."""
    return hashlib.sha256(" ".join(sorted(p.uid for p in pods)).encode()).hexdigest()[:16]


def _progressed(
    step: TrainStep,
    attempt: AttemptStatus,
    job: JobSeen | None,
    pods: tuple[PodSeen, ...],
    seen: ChildrenSeen,
    now: datetime,
) -> AttemptStatus:
    """With the milestones that were reached, each recorded when it is first seen."""
    facts: dict[str, object] = {}
    if job is not None and attempt.job_uid is None:
        if job.is_queued:
            facts["admitted_at"] = None  # for the first time, or again
        elif attempt.admitted_at is None:
            facts["admitted_at"] = now
        if _has_started(step, job, pods):
            gang = gang_digest(pods)
            facts |= {"job_uid": job.uid, "gang": gang, "trainer_started_at": now}
    if attempt.stepped_at is None and _has_stepped(step, attempt, seen):
        facts["stepped_at"] = now
    reported = report_of(step, attempt.number, seen) is not None
    has_ended = reported or any(_failed(p) for p in pods)
    if attempt.ended_at is None and has_ended:
        facts["ended_at"] = now
    elif attempt.job_uid is None and not has_ended:
        facts["ended_at"] = None  # what had ended before it all ran was made again
    facts["message"] = _hindrance(attempt, pods, seen, step.kind)
    return attempt.model_copy(update=facts)


def _has_started(step: TrainStep, job: JobSeen, pods: tuple[PodSeen, ...]) -> bool:
    """Whether all trainer pods are on their machines. Nothing has trained before."""
    is_there = not job.is_deleting and len(pods) == step.workers.replicas
    return is_there and all(p.phase != "Pending" and not p.is_deleting for p in pods)


def _has_stepped(step: TrainStep, attempt: AttemptStatus, seen: ChildrenSeen) -> bool:
    progress = seen.progress
    told = (
        progress is not None
        and (progress.uid, progress.stage) == (step.run.uid, step.kind)
        and progress.attempt == attempt.number
        and progress.step > 0
    )
    # What cannot be asked is taken to train: it must not be stopped for being out of sight.
    is_unseen = bool(seen.unreached) and attempt.trainer_started_at is not None
    return told or is_unseen or report_of(step, attempt.number, seen) is not None


def _hindrance(
    attempt: AttemptStatus, pods: tuple[PodSeen, ...], seen: ChildrenSeen, kind: StageKind
) -> str:
    """What keeps an attempt from starting, while something does; not its turn in a queue."""
    if attempt.stepped_at is not None:
        return ""
    if seen.trouble:
        return seen.trouble
    servers = (p for p in seen.pods if p.role == "rollout" and p.kind == kind)
    waiting = (*pods, *sorted(servers, key=lambda p: p.name))
    blocked = next((p for p in waiting if p.blocker), None)
    if blocked is not None:
        return with_remedy(f"{blocked.name}: {blocked.blocker}")
    deployed = seen.servers_of(kind)
    if deployed is not None and deployed.blocker:
        return with_remedy(f"{deployed.name}: {deployed.blocker}")
    return ""


def _without_job(attempt: AttemptStatus, pods: tuple[PodSeen, ...], now: datetime) -> AttemptStatus:
    if not attempt.stopping:
        if attempt.job_uid is None:
            # It is made, or made again: nothing has trained.
            return attempt.model_copy(update={"ended_at": None})
        return _over(attempt, "preempted", now, "its PyTorchJob was deleted")
    return attempt if any(not p.is_over for p in pods) else _stopped(attempt, now)


def _stopped(attempt: AttemptStatus, now: datetime) -> AttemptStatus:
    """Over because it was asked to end. What a deadline ends may count as a fault."""
    if attempt.stopped_by == "user":
        return _over(attempt, "interrupted", now, attempt.stopping)
    return _over(attempt, "ended", now, attempt.stopping, ExitCode.SAVED)


def _lost(attempt: AttemptStatus, job: JobSeen, pods: tuple[PodSeen, ...]) -> str:
    """What was taken away from a gang; empty if nothing was."""
    if job.is_deleting:
        return "its PyTorchJob was deleted"
    taken = tuple(p for p in pods if p.disruption)
    if taken:
        return f"{names_of(taken)}: {taken[0].disruption}"
    if attempt.job_uid is None:
        return ""  # the Training Operator makes what is missing
    if job.is_queued:
        return "its PyTorchJob was suspended"
    if job.is_finished or any(_failed(p) and not p.is_deleting for p in pods):
        return ""
    gone = tuple(p for p in pods if p.is_deleting)
    if gone:
        return f"{names_of(gone)} deleted"
    if gang_digest(pods) != attempt.gang:
        return "a pod of it was deleted"
    return ""


def _failed(pod: PodSeen) -> bool:
    return pod.phase == "Failed" or bool(pod.exit_code)


def _is_over(
    step: TrainStep,
    attempt: AttemptStatus,
    job: JobSeen,
    pods: tuple[PodSeen, ...],
    now: datetime,
) -> bool:
    if len(pods) == step.workers.replicas and all(p.is_over for p in pods):
        return True
    if job.is_finished and not any(not p.is_over for p in pods):
        return True
    first = attempt.ended_at
    return first is not None and (now - first).total_seconds() >= STRAGGLER_SECONDS


def _ended(
    step: TrainStep,
    attempt: AttemptStatus,
    job: JobSeen,
    pods: tuple[PodSeen, ...],
    now: datetime,
) -> AttemptStatus:
    """By itself, because it was asked to, or because its pods were taken away unseen: one that
    failed stays until somebody deletes it."""
    cause = min((p for p in pods if _failed(p)), key=_telling, default=None)
    were_there = attempt.gang is not None or job.ended_pods > 0
    if cause is None and were_there and len(pods) < step.workers.replicas:
        gone = "pods of it were deleted"
        return (
            _stopped(attempt, now) if attempt.stopping else _over(attempt, "preempted", now, gone)
        )
    if cause is None:
        done = ExitCode.DONE if pods and all(p.is_over for p in pods) else None
        return _over(attempt, "ended", now, "" if done == 0 else job.message, done)
    code = meaning_of(cause.exit_code)
    if attempt.stopping and code in (ExitCode.SAVED, ExitCode.CRASHED):
        return _stopped(attempt, now)
    if cause.is_deleting and code == ExitCode.SAVED:
        return _over(attempt, "preempted", now, f"{cause.name} deleted")
    return _over(attempt, "ended", now, _last_words(cause), cause.exit_code)


def _telling(pod: PodSeen) -> tuple[int, bool, int]:
    """Sort key: who knows best why a gang ended. Of those that crashed one that was killed comes
    before those that lost it as their peer."""
    is_killed = bool(pod.reason) or pod.exit_code is None or pod.exit_code > 128
    return WORST_FIRST.index(meaning_of(pod.exit_code)), not is_killed, pod.index


def _last_words(pod: PodSeen) -> str:
    words = pod.termination_message.strip()
    how = pod.reason or (f"exit code {pod.exit_code}" if pod.exit_code is not None else "failed")
    return f"{pod.name}: {words or how}" if not pod.reason else f"{pod.name}: {how} {words}".strip()


def _over(
    attempt: AttemptStatus,
    outcome: str,
    now: datetime,
    message: str = "",
    code: int | None = None,
) -> AttemptStatus:
    facts = {"outcome": outcome, "message": message, "exit_code": code}
    return attempt.model_copy(update=facts | {"ended_at": attempt.ended_at or now})


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as status documents have them: whole milliseconds, in UTC."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)
