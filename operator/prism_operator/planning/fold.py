"""next_status(...): the whole reconcile of a run as a pure function.

What its children show is folded into what is stored of it, `decide` judges the result, and the
status that follows is stored before anything is created or deleted because of it. The executor's
part is `children.py`: what ought to be there is a function of the stored status alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from prism_api.checkpoint import CheckpointRef
from prism_api.exit_codes import PERMANENT, ExitCode
from prism_api.names import StageKind
from prism_api.resources import FailurePolicy
from prism_api.status import (
    AttemptStatus,
    GpuSeconds,
    PrismRunStatus,
    Restarts,
    StageStatus,
    State,
)
from prism_operator.planning.attempts import (
    STRAGGLER_SECONDS,
    is_draining,
    moment,
    observe_attempt,
    report_of,
)
from prism_operator.planning.decide import (
    Decision,
    StartAttempt,
    decide,
    is_fault,
    seconds_of,
)
from prism_operator.planning.observation import AttemptObserved, PastAttempts, RunObserved
from prism_operator.planning.plan import Plan, TrainStep
from prism_operator.planning.sightings import ChildrenSeen, Wanted
from prism_operator.planning.summary import summarize

_ASKS_FOR_CHANGES = PERMANENT | {ExitCode.FOLDER_TAKEN}
"""No new attempt before its user has changed what the next one would be made of."""

HELP_SECONDS = 60.0
"""After a stage's storage has failed it is tried again after so long, as often as it takes."""


@dataclass(frozen=True)
class Next:
    """What to store, and when to look again if nothing happens."""

    status: PrismRunStatus
    decision: Decision

    @property
    def requeue_after_seconds(self) -> float | None:
        """Seconds; none: something has to happen first."""
        return self.decision.requeue_after_seconds


def next_status(
    plan: Plan,
    policy: FailurePolicy,
    wanted: Wanted,
    stored: PrismRunStatus,
    seen: ChildrenSeen,
    generation: int,
    now_seconds: float,
) -> Next:
    """The status that follows from the stored one and from what is there."""
    now = moment(now_seconds)
    stages = {step.kind: _observe_stage(plan, step, stored, seen, now) for step in plan.train_steps}
    observed = _as_observed(plan, stages, seen, wanted, now_seconds)
    decision = decide(plan, policy, observed, now_seconds, help_seconds=HELP_SECONDS)
    stages = {
        step.kind: _after(step, stored, stages[step.kind], decision, policy, wanted, now)
        for step in plan.train_steps
    }
    return Next(summarize(stored, stages, decision, seen, generation, now), decision)


def has_ended_unproven(before: PrismRunStatus, after: PrismRunStatus) -> bool:
    """Whether an attempt has just ended without a proof, and not because it was asked to. Who sees
    too little of its job and pods must look again before that is stored: it may be going on, or
    another pod may be the one that knows why."""
    return any(
        _is_unproven(stage) and _has_just_ended(before.stages.get(kind), stage)
        for kind, stage in after.stages.items()
    )


def _is_unproven(stage: StageStatus) -> bool:
    attempt = stage.attempt
    if attempt is None or stage.result is not None:
        return False
    return attempt.outcome in ("preempted", "ended")


def _has_just_ended(before: StageStatus | None, after: StageStatus) -> bool:
    """Whether the newest attempt is over, and was not yet before."""
    old, new = before.attempt if before else None, after.attempt
    if new is None or new.outcome is None:
        return False
    return old is None or old.number != new.number or old.outcome is None


def _observe_stage(
    plan: Plan, step: TrainStep, stored: PrismRunStatus, seen: ChildrenSeen, now: datetime
) -> StageStatus:
    stage = _sound(step, stored.stages.get(step.kind, StageStatus()), now)
    attempt = stage.attempt
    if attempt is None:
        return stage
    facts: dict[str, object] = {}
    if stage.result is None:
        facts["result"] = report_of(step, attempt.number, seen)
    if attempt.outcome is None:
        attempt = observe_attempt(step, attempt, seen, now)
        facts |= {"attempt": attempt, **_progress(step, attempt, seen)}
        if attempt.outcome is not None:
            facts["gpu_seconds"] = _gpu_seconds(stage.gpu_seconds, attempt, plan.gpus_of(step))
    return stage.model_copy(update=facts)


def _sound(step: TrainStep, stage: StageStatus, now: datetime) -> StageStatus:
    """Without what only somebody else than we can have written."""
    attempt, proof = stage.attempt, stage.result
    if proof is not None and (proof.result.run.uid, proof.result.kind) != (step.run.uid, step.kind):
        stage = stage.model_copy(update={"result": None})
    if attempt is not None and attempt.outcome is not None and attempt.ended_at is None:
        attempt = attempt.model_copy(update={"ended_at": now})
        stage = stage.model_copy(update={"attempt": attempt})
    return stage


def _gpu_seconds(before: GpuSeconds, attempt: AttemptStatus, gpus: int) -> GpuSeconds:
    return GpuSeconds(
        allocated=before.allocated + gpus * _seconds(attempt.admitted_at, attempt.ended_at),
        productive=before.productive + gpus * _seconds(attempt.stepped_at, attempt.ended_at),
    )


def _seconds(start: datetime | None, end: datetime | None) -> float:
    if start is None or end is None:
        return 0.0
    return round(max(0.0, (end - start).total_seconds()), 3)


def _progress(step: TrainStep, attempt: AttemptStatus, seen: ChildrenSeen) -> dict[str, object]:
    told = seen.progress
    if told is None or (told.uid, told.stage, told.attempt) != (
        step.run.uid,
        step.kind,
        attempt.number,
    ):
        return {}
    facts = {"phase": told.phase, "step": told.step, "steps": told.steps}
    return {**facts, "metrics": {name: _short(value) for name, value in told.metrics.items()}}


def _short(value: float) -> float:
    """Four digits: what is read in a terminal and stored at every poll."""
    return float(f"{value:.4g}")


def _as_observed(
    plan: Plan,
    stages: Mapping[StageKind, StageStatus],
    seen: ChildrenSeen,
    wanted: Wanted,
    now: float,
) -> RunObserved:
    """What `decide` judges by. Of each stage only the newest attempt is known in detail."""
    attempts = {
        kind: (_attempt_observed(stage.attempt, wanted, now),)
        for kind, stage in stages.items()
        if stage.attempt is not None
    }
    past = {
        kind: PastAttempts(s.restarts.faults, s.restarts.preemptions, s.restarts.seconds)
        for kind, s in stages.items()
    }
    results = {kind: s.result.result for kind, s in stages.items() if s.result is not None}
    over = _attempts_seen(seen) - {(k, a[0].number) for k, a in attempts.items() if _runs(a[0])}
    steps = {step.kind: step for step in plan.train_steps}
    draining = {(k, n) for k, n in over if k in steps and is_draining(seen, steps[k], n)}
    return RunObserved(attempts, results, wanted.suspend, wanted.cancel, past, frozenset(draining))


def _runs(attempt: AttemptObserved) -> bool:
    return attempt.state == "running"


def _attempts_seen(seen: ChildrenSeen) -> set[tuple[StageKind, int]]:
    pods = {(pod.kind, pod.attempt) for pod in seen.pods if pod.role == "trainer"}
    return pods | {(job.kind, job.attempt) for job in seen.jobs}


def _attempt_observed(attempt: AttemptStatus, wanted: Wanted, now: float) -> AttemptObserved:
    """A queued attempt has not started: no deadline holds for it."""
    ended = attempt.ended_at.timestamp() if attempt.ended_at else now
    started = attempt.admitted_at.timestamp() if attempt.admitted_at else ended
    is_mended = wanted.made_of not in ("", attempt.made_of)
    is_held = bool(attempt.message) or attempt.admitted_at is None
    is_waiting = attempt.trainer_started_at is None and is_held
    state = attempt.outcome or "running"
    if state == "ended" and attempt.exit_code in _ASKS_FOR_CHANGES and is_mended:
        state = "interrupted"  # what made it fail was changed
    return AttemptObserved(
        number=attempt.number,
        state=state,
        exit_code=attempt.exit_code if state == "ended" else None,
        message=attempt.message,
        started_at=started if attempt.outcome or attempt.admitted_at else now,
        ended_at=ended,
        has_stepped=attempt.stepped_at is not None,
        is_outdated=is_waiting and is_mended,
    )


def _after(
    step: TrainStep,
    stored: PrismRunStatus,
    stage: StageStatus,
    decision: Decision,
    policy: FailurePolicy,
    wanted: Wanted,
    now: datetime,
) -> StageStatus:
    """The stage with what was decided of it."""
    verdict = decision.stages[step.kind]
    is_done = verdict.state is State.SUCCEEDED
    stage = stage.model_copy(update={"state": verdict.state, "message": verdict.message})
    for action in decision.actions:
        if action.kind != step.kind:
            continue
        if isinstance(action, StartAttempt):
            if _has_just_ended(stored.stages.get(step.kind), stage):
                continue  # first it is stored how that went; then the next one starts
            stage = _started(step, stage, action.attempt, policy, wanted, now)
        elif stage.attempt is not None and _is_to_stop(stage, action.attempt, now):
            facts = {"stopping": action.reason, "stopped_by": action.by}
            stage = stage.model_copy(update={"attempt": stage.attempt.model_copy(update=facts)})
    is_over = is_done or verdict.state in (State.FAILED, State.CANCELLED)
    if not is_over:
        return stage.model_copy(update={"ended_at": None})  # it goes on, if it was given up before
    if stage.ended_at is None and stage.attempt is not None:
        stage = stage.model_copy(update={"ended_at": now})
    return stage


def _is_to_stop(stage: StageStatus, number: int, now: datetime) -> bool:
    """Pods of a stage that is done get a moment to end by themselves."""
    attempt = stage.attempt
    if attempt is None or attempt.number != number or attempt.outcome or attempt.stopping:
        return False
    if stage.result is None or attempt.ended_at is None:
        return True
    return (now - attempt.ended_at).total_seconds() >= STRAGGLER_SECONDS


def _started(
    step: TrainStep,
    stage: StageStatus,
    number: int,
    policy: FailurePolicy,
    wanted: Wanted,
    now: datetime,
) -> StageStatus:
    attempt = AttemptStatus(
        number=number,
        started_at=now,
        admitted_at=None if step.queue else now,
        made_of=wanted.made_of,
    )
    restarts = _counted(stage, policy, wanted) if stage.attempt else stage.restarts
    facts = {"attempt": attempt, "restarts": restarts, "started_at": stage.started_at or now}
    return stage.model_copy(update=facts)


def _counted(stage: StageStatus, policy: FailurePolicy, wanted: Wanted) -> Restarts:
    """The stage's restarts with its newest attempt among them."""
    assert stage.attempt is not None
    last = _attempt_observed(stage.attempt, wanted, 0.0)
    return Restarts(
        faults=stage.restarts.faults + is_fault(last, policy),
        preemptions=stage.restarts.preemptions + (last.state == "preempted"),
        seconds=stage.restarts.seconds + max(0.0, seconds_of(last, 0.0)),
    )


def parent_of(
    plan: Plan, step: TrainStep, stages: Mapping[StageKind, StageStatus]
) -> CheckpointRef | None:
    """What a stage starts from: the stored result of the stage before."""
    if step.after is None:
        return None
    result = stages[step.after].result
    assert result is not None, f"{step.kind} was started before {step.after} was proven"
    return result.result.checkpoint
