"""The status of a run as people and programs read it: conditions, print columns, times."""

from collections.abc import Mapping
from datetime import datetime

from prism_api.names import STAGE_ORDER, StageKind
from prism_api.reasons import Reason
from prism_api.status import (
    FINISHED,
    Condition,
    ConditionType,
    PrismRunStatus,
    StageStatus,
    State,
)
from prism_operator.planning.decide import Decision
from prism_operator.planning.sightings import ChildrenSeen, names_of


def summarize(
    stored: PrismRunStatus,
    stages: Mapping[StageKind, StageStatus],
    decision: Decision,
    seen: ChildrenSeen,
    generation: int,
    now: datetime,
) -> PrismRunStatus:
    """Everything that is shown of a run, from its stages and what was decided of it."""
    current = _current(stages)
    stage = stages[current]
    reason, message = _why(decision, current, stage, seen)
    is_finished = decision.state in FINISHED
    return PrismRunStatus(
        observed_generation=generation,
        conditions=_conditions(stored, decision.state, reason, message, generation, now),
        state=decision.state,
        message=message,
        current_stage=current,
        step=f"{stage.step}/{stage.steps}" if stage.steps else "",
        reward=stage.metrics.get("reward"),
        accuracy=_accuracy(stages),
        restarts=sum(_restarts(s) for s in stages.values()),
        start_time=stored.start_time or _first_step(stages),
        completion_time=(stored.completion_time or now) if is_finished else None,
        stages=dict(stages),
    )


def refused(
    stored: PrismRunStatus, reason: Reason, message: str, generation: int, now: datetime
) -> PrismRunStatus:
    """Of a run that cannot be carried out as it is written; what runs of it is left as it is."""
    conditions = {c.type: c for c in stored.conditions}
    answer = _answer("Accepted", False, reason, message)
    conditions["Accepted"] = _dated(conditions.get("Accepted"), answer, generation, now)
    facts = {
        "observed_generation": generation,
        "conditions": tuple(conditions.values()),
        "message": message,
    }
    return stored.model_copy(update=facts)


def _current(stages: Mapping[StageKind, StageStatus]) -> StageKind:
    kinds = [kind for kind in STAGE_ORDER if kind in stages]
    open_ones = (kind for kind in kinds if stages[kind].state is not State.SUCCEEDED)
    return next(open_ones, kinds[-1])


def _why(
    decision: Decision, kind: StageKind, stage: StageStatus, seen: ChildrenSeen
) -> tuple[Reason, str]:
    """A start that is kept from happening is told with what keeps it."""
    attempt = stage.attempt
    if decision.reason is Reason.STARTING and attempt is not None and attempt.outcome is None:
        if attempt.message:
            return Reason.BLOCKED, attempt.message
        job = seen.job_of(kind, attempt.number)
        if job is not None and job.is_queued:
            return Reason.QUEUED, "waits for admission by Kueue"
    if decision.reason is Reason.DRAINING and not decision.message:
        return decision.reason, _waits_for(seen)
    unseen = _unseen(seen) if decision.reason is Reason.TRAINING else ""
    return decision.reason, decision.message or seen.trouble or unseen


def _waits_for(seen: ChildrenSeen) -> str:
    """Nothing starts beside pods that may still run; those of a lost node never say that they have
    ended."""
    pods = (p for p in seen.pods if p.role == "trainer" and not p.is_over)
    names = names_of(sorted(pods, key=lambda pod: pod.name))
    if not names:
        return ""
    remedy = "if their node is lost, delete the Node, or the pods by force"
    return f"waits for the end of {names}; {remedy}"


def _unseen(seen: ChildrenSeen) -> str:
    if not seen.unreached:
        return ""
    return (
        f"{seen.unreached} does not answer, so no step is shown and no start deadline holds; "
        "let the operator reach this port of the trainers (NetworkPolicy, mesh)"
    )


def _accuracy(stages: Mapping[StageKind, StageStatus]) -> float | None:
    """Of the last stage that was evaluated."""
    results = [s.result.result for kind in STAGE_ORDER if (s := stages.get(kind)) and s.result]
    measured = [r.evaluation.accuracy for r in results if r.evaluation is not None]
    return measured[-1] if measured else None


def _restarts(stage: StageStatus) -> int:
    return stage.attempt.number - 1 if stage.attempt else 0


def _first_step(stages: Mapping[StageKind, StageStatus]) -> datetime | None:
    steps = [s.attempt.stepped_at for s in stages.values() if s.attempt and s.attempt.stepped_at]
    return min(steps, default=None)


def _conditions(
    stored: PrismRunStatus,
    state: State,
    reason: Reason,
    message: str,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    before = {c.type: c for c in stored.conditions}
    is_training = state is State.RUNNING and reason is Reason.TRAINING
    answers = (
        _answer("Accepted", True, Reason.ACCEPTED, ""),
        _answer("Running", is_training, reason, message),
        _answer("Suspended", state is State.SUSPENDED, reason, message),
        _answer("Succeeded", state is State.SUCCEEDED, reason, message),
        _answer("Failed", state in FINISHED - {State.SUCCEEDED}, reason, message),
    )
    return tuple(_dated(before.get(a.type), a, generation, now) for a in answers)


def _answer(question: ConditionType, is_so: bool, reason: Reason, message: str) -> Condition:
    """Without its time, which depends on the answer before."""
    tells = is_so or question in ("Running", "Accepted")
    return Condition(
        type=question,
        status="True" if is_so else "False",
        reason=reason,
        message=message if tells else "",
        last_transition_time=datetime.min,
    )


def _dated(
    before: Condition | None, answer: Condition, generation: int, now: datetime
) -> Condition:
    kept = before is not None and before.status == answer.status
    since = before.last_transition_time if before is not None and kept else now
    facts = {"last_transition_time": since, "observed_generation": generation}
    return answer.model_copy(update=facts)
