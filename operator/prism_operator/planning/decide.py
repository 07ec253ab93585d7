"""decide(plan, policy, observed, now): the whole state machine of a run, pure.

Level-triggered: the decision depends only on what is there, never on how it came to be, so that a
restarted executor goes on as if nothing had happened.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from prism_api.checkpoint import CheckpointRef
from prism_api.exit_codes import NEEDS_HELP, PERMANENT, ExitCode
from prism_api.names import StageKind
from prism_api.resources import FailurePolicy
from prism_api.stage_config import StageResult
from prism_operator.planning.observation import AttemptObserved, RunObserved
from prism_operator.planning.plan import Plan, TrainStep

_MAX_BACKOFF_SECONDS = 300.0
_POLL_SECONDS = 30.0


class State(StrEnum):
    """Where a stage, or a run, stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    BLOCKED = "Blocked"
    FAILED = "Failed"
    SUCCEEDED = "Succeeded"


_SETTLED = (State.SUSPENDED, State.BLOCKED, State.FAILED, State.SUCCEEDED)


@dataclass(frozen=True)
class StartAttempt:
    """Start an attempt of a stage from a verified checkpoint, or from the run's model."""

    kind: StageKind
    attempt: int
    init_from: CheckpointRef | None


@dataclass(frozen=True)
class StopAttempt:
    """Ask a running attempt to save itself and end."""

    kind: StageKind
    attempt: int
    reason: str


Action = StartAttempt | StopAttempt


@dataclass(frozen=True)
class StageStatus:
    """Status of one stage."""

    state: State
    attempt: int = 0
    faults: int = 0
    """Attempts that failed by their own fault."""
    message: str = ""


@dataclass(frozen=True)
class Decision:
    """What to do now, what to show, and when to look again if nothing happens."""

    state: State
    stages: dict[StageKind, StageStatus]
    actions: tuple[Action, ...] = ()
    message: str = ""
    exit_code: ExitCode | None = None
    """Why the run failed or is blocked; mostly of the attempt that decided it."""
    requeue_after_seconds: float | None = field(default=None)


def decide(plan: Plan, policy: FailurePolicy, observed: RunObserved, now: float) -> Decision:
    """The next actions of a run: at most one attempt of one stage runs at any time."""
    proofs = _proofs(plan, observed)
    stages = {step.kind: StageStatus(State.PENDING) for step in plan.train_steps}
    for kind, proof in proofs.items():
        failed = [a for a in _attempts(observed, kind) if a.exit_code != ExitCode.DONE]
        stages[kind] = StageStatus(State.SUCCEEDED, proof.attempt, _faults(failed, policy))
    current = next((step for step in plan.train_steps if step.kind not in proofs), None)
    if current is None:
        return _once_alone(Decision(State.SUCCEEDED, stages), _strays(observed))
    attempts = _attempts(observed, current.kind)
    other = observed.results.get(current.kind)
    if other is not None and _is_of(other, current):
        decision = _settled(
            current, policy, State.BLOCKED, attempts, other.contradiction, ExitCode.FOLDER_TAKEN
        )
        strays = _strays(observed)
    else:
        parent = proofs[current.after].checkpoint if current.after else None
        decision = _decide_stage(current, policy, attempts, parent, observed.suspend, now)
        strays = _strays(observed, watched=current.kind)
    return _once_alone(replace(decision, stages=stages | decision.stages), strays)


def _attempts(observed: RunObserved, kind: StageKind) -> tuple[AttemptObserved, ...]:
    return observed.attempts.get(kind, ())


def _proofs(plan: Plan, observed: RunObserved) -> dict[StageKind, StageResult]:
    """Results of the stages from the first on that are done as they are planned now."""
    proofs: dict[StageKind, StageResult] = {}
    parent: CheckpointRef | None = None
    for step in plan.train_steps:
        result = observed.results.get(step.kind)
        if result is None or not _is_of(result, step):
            break
        if result.config_hash != step.config(result.attempt, parent).config_hash:
            break
        proofs[step.kind] = result
        parent = result.checkpoint
    return proofs


def _is_of(result: StageResult, step: TrainStep) -> bool:
    """Whether the result is of this very stage of this very run."""
    return result.run.uid == step.run.uid and result.kind == step.kind


def _strays(observed: RunObserved, watched: StageKind | None = None) -> tuple[StopAttempt, ...]:
    """Whatever runs beside the newest attempt of the watched stage, such as a process that has
    reported its stage's result and is about to end."""
    running = {
        (kind, attempt.number)
        for kind, attempts in observed.attempts.items()
        for attempt in attempts
        if attempt.state == "running"
    }
    if watched is not None:
        running -= {(watched, attempt.number) for attempt in _attempts(observed, watched)[-1:]}
    return tuple(StopAttempt(kind, number, "it is done with") for kind, number in sorted(running))


def _once_alone(decision: Decision, strays: tuple[StopAttempt, ...]) -> Decision:
    """The same, but nothing starts and nothing is settled while strays run."""
    if not strays:
        return decision
    stops = tuple(action for action in decision.actions if isinstance(action, StopAttempt))
    waiting = {
        action.kind: StageStatus(State.PENDING)
        for action in decision.actions
        if isinstance(action, StartAttempt)
    }
    is_settled = decision.state in _SETTLED
    return Decision(
        State.STOPPING if is_settled else decision.state,
        decision.stages | waiting,
        strays + stops,
        decision.message,
        requeue_after_seconds=_POLL_SECONDS,
    )


def _decide_stage(
    step: TrainStep,
    policy: FailurePolicy,
    attempts: Sequence[AttemptObserved],
    parent: CheckpointRef | None,
    suspend: bool,
    now: float,
) -> Decision:
    last = attempts[-1] if attempts else None
    if last is not None and last.state == "running":
        return _watch(step, policy, attempts, suspend, now)
    code = _code(last) if last is not None and last.state == "ended" else None
    if code in PERMANENT:
        return _settled(step, policy, State.FAILED, attempts, attempts[-1].message, code)
    if code in NEEDS_HELP:
        return _settled(step, policy, State.BLOCKED, attempts, attempts[-1].message, code)
    if suspend:
        return _settled(
            step, policy, State.SUSPENDED, attempts, "stopped; the last checkpoint is kept"
        )
    if last is not None:
        verdict = _judge(step, policy, attempts, now)
        if verdict is not None:
            return verdict
    number = last.number + 1 if last else 1
    start = StartAttempt(step.kind, number, parent)
    status = StageStatus(State.RUNNING, number, _faults(attempts, policy))
    return Decision(
        State.RUNNING, {step.kind: status}, (start,), requeue_after_seconds=_POLL_SECONDS
    )


def _watch(
    step: TrainStep,
    policy: FailurePolicy,
    attempts: Sequence[AttemptObserved],
    suspend: bool,
    now: float,
) -> Decision:
    """A running attempt goes on, unless the user or a deadline wants it stopped."""
    last = attempts[-1]
    reason = _reason_to_stop(policy, attempts, suspend, now)
    state = State.STOPPING if reason else State.RUNNING
    status = StageStatus(state, last.number, _faults(attempts, policy), reason)
    actions = (StopAttempt(step.kind, last.number, reason),) if reason else ()
    return Decision(
        state, {step.kind: status}, actions, reason, requeue_after_seconds=_POLL_SECONDS
    )


def _reason_to_stop(
    policy: FailurePolicy, attempts: Sequence[AttemptObserved], suspend: bool, now: float
) -> str:
    last = attempts[-1]
    if suspend:
        return "suspended"
    if not last.has_stepped and now - last.started_at > policy.start_deadline_seconds:
        return f"no step within startDeadlineSeconds ({policy.start_deadline_seconds})"
    if _is_over_deadline(policy, attempts, now):
        return f"longer than stageDeadlineSeconds ({policy.stage_deadline_seconds})"
    return ""


def _is_over_deadline(
    policy: FailurePolicy, attempts: Sequence[AttemptObserved], now: float
) -> bool:
    """Whether all attempts together ran too long; pauses between them do not count."""
    limit = policy.stage_deadline_seconds
    seconds = sum(
        (now if attempt.state == "running" else attempt.ended_at) - attempt.started_at
        for attempt in attempts
    )
    return limit is not None and seconds > limit


def _code(attempt: AttemptObserved) -> ExitCode:
    """The contract's code; every other one means the same as a crash."""
    code = attempt.exit_code
    return ExitCode(code) if code is not None and code in set(ExitCode) else ExitCode.CRASHED


def _judge(
    step: TrainStep, policy: FailurePolicy, attempts: Sequence[AttemptObserved], now: float
) -> Decision | None:
    """Whether the attempts so far settle the stage or ask for a pause; None: try again."""
    last, faults = attempts[-1], _faults(attempts, policy)
    if _is_over_deadline(policy, attempts, now):
        text = f"longer than stageDeadlineSeconds ({policy.stage_deadline_seconds})"
        return _settled(step, policy, State.FAILED, attempts, text, ExitCode.CRASHED)
    cause = "ended well without a result" if last.exit_code == ExitCode.DONE else last.message
    if faults > policy.max_restarts:
        text = f"failed {faults} times, maxRestarts is {policy.max_restarts}; last: {cause}"
        return _settled(step, policy, State.FAILED, attempts, text, ExitCode.CRASHED)
    preemptions = sum(attempt.state == "preempted" for attempt in attempts)
    if preemptions > policy.max_preemptions:
        text = f"preempted {preemptions} times, maxPreemptions is {policy.max_preemptions}"
        return _settled(step, policy, State.FAILED, attempts, text, ExitCode.CRASHED)
    wait = last.ended_at + backoff_seconds(faults) - now
    if _is_fault(last, policy) and wait > 0:
        status = StageStatus(State.PENDING, last.number, faults, f"tries again in {wait:.0f} s")
        return Decision(
            State.RUNNING, {step.kind: status}, message=cause, requeue_after_seconds=wait
        )
    return None


def _settled(
    step: TrainStep,
    policy: FailurePolicy,
    state: State,
    attempts: Sequence[AttemptObserved],
    message: str,
    code: ExitCode | None = None,
) -> Decision:
    number = attempts[-1].number if attempts else 0
    status = StageStatus(state, number, _faults(attempts, policy), message)
    return Decision(state, {step.kind: status}, message=message, exit_code=code)


def _faults(attempts: Sequence[AttemptObserved], policy: FailurePolicy) -> int:
    """Attempts that count against the budget, given that none of them has proved its stage."""
    return sum(_is_fault(attempt, policy) for attempt in attempts)


def _is_fault(attempt: AttemptObserved, policy: FailurePolicy) -> bool:
    """Interrupted and preempted attempts are no faults, nor those that were asked to save
    themselves, unless for never having got to a first step."""
    if attempt.state != "ended":
        return False
    if attempt.exit_code != ExitCode.SAVED:
        return True
    seconds = attempt.ended_at - attempt.started_at
    return not attempt.has_stepped and seconds > policy.start_deadline_seconds


def backoff_seconds(faults: int) -> float:
    """Pause before the next attempt: 1 s after the first fault, doubling up to five minutes."""
    return min(_MAX_BACKOFF_SECONDS, 2.0 ** max(0, faults - 1)) if faults else 0.0
