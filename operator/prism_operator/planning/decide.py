"""decide(plan, policy, observed, now): the whole state machine of a run, pure.

Level-triggered: the decision depends only on what is there, never on how it came to be, so that a
restarted executor goes on as if nothing had happened.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from prism_api.checkpoint import CheckpointRef
from prism_api.exit_codes import NEEDS_HELP, PERMANENT, ExitCode, meaning_of
from prism_api.names import StageKind
from prism_api.reasons import Reason
from prism_api.resources import FailurePolicy
from prism_api.stage_config import StageResult
from prism_api.status import SETTLED, State
from prism_operator.planning.observation import AttemptObserved, PastAttempts, RunObserved
from prism_operator.planning.plan import Plan, TrainStep

_MAX_BACKOFF_SECONDS = 300.0
_POLL_SECONDS = 30.0
_AFTER_SECONDS = 0.05
"""A deadline is looked at again when it has passed for certain."""

_REASONS = {
    ExitCode.BAD_CONFIG: Reason.BAD_CONFIG,
    ExitCode.BAD_DATA: Reason.BAD_DATA,
    ExitCode.NON_FINITE: Reason.NON_FINITE,
    ExitCode.FOLDER_TAKEN: Reason.RESULT_CONTRADICTS,
    ExitCode.STORE: Reason.STORE_FAILED,
}


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
    by: Literal["user", "deadline"] = "user"


Action = StartAttempt | StopAttempt


@dataclass(frozen=True)
class StageVerdict:
    """Where one stage stands."""

    state: State
    attempt: int = 0
    faults: int = 0
    """Attempts that failed by their own fault."""
    message: str = ""


@dataclass(frozen=True)
class Decision:
    """What to do now, what to show, and when to look again if nothing happens."""

    state: State
    reason: Reason
    stages: dict[StageKind, StageVerdict]
    actions: tuple[Action, ...] = ()
    message: str = ""
    exit_code: ExitCode | None = None
    """Why the run failed or is blocked; mostly of the attempt that decided it."""
    requeue_after_seconds: float | None = None


@dataclass(frozen=True)
class _Case:
    """The stage that is to be worked on, and all that its verdict depends on."""

    step: TrainStep
    policy: FailurePolicy
    past: PastAttempts
    attempts: Sequence[AttemptObserved]
    """Oldest first."""
    help_seconds: float | None
    now: float

    @property
    def last(self) -> AttemptObserved | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def faults(self) -> int:
        """Attempts that count against the budget, given that none of them has proved its stage."""
        return self.past.faults + sum(is_fault(a, self.policy) for a in self.attempts)

    @property
    def preemptions(self) -> int:
        return self.past.preemptions + sum(a.state == "preempted" for a in self.attempts)

    @property
    def is_over_deadline(self) -> bool:
        """Whether all attempts together ran too long; pauses between them do not count."""
        limit = self.policy.stage_deadline_seconds
        return limit is not None and self.seconds > limit

    @property
    def seconds(self) -> float:
        """Running time of all attempts."""
        return self.past.seconds + sum(seconds_of(a, self.now) for a in self.attempts)

    def verdict(self, state: State, message: str = "") -> StageVerdict:
        return StageVerdict(state, self.last.number if self.last else 0, self.faults, message)

    def settled(
        self, state: State, reason: Reason, message: str, code: ExitCode | None = None
    ) -> Decision:
        stages = {self.step.kind: self.verdict(state, message)}
        return Decision(state, reason, stages, message=message, exit_code=code)


def decide(
    plan: Plan,
    policy: FailurePolicy,
    observed: RunObserved,
    now: float,
    help_seconds: float | None = None,
) -> Decision:
    """The next actions of a run: at most one attempt of one stage runs at any time.

    An attempt that needs help (storage) is tried again after `help_seconds`; None: its user does.
    """
    proofs = _proofs(plan, observed)
    stages = {step.kind: StageVerdict(State.PENDING) for step in plan.train_steps}
    for kind, proof in proofs.items():
        failed = [a for a in _attempts(observed, kind) if a.exit_code != ExitCode.DONE]
        faults = _past(observed, kind).faults + sum(is_fault(a, policy) for a in failed)
        stages[kind] = StageVerdict(State.SUCCEEDED, proof.attempt, faults)
    step = next((step for step in plan.train_steps if step.kind not in proofs), None)
    if step is None:
        done = Decision(State.SUCCEEDED, Reason.COMPLETED, stages)
        return _once_alone(done, _strays(observed))
    attempts, past = _attempts(observed, step.kind), _past(observed, step.kind)
    case = _Case(step, policy, past, attempts, help_seconds, now)
    other = observed.results.get(step.kind)
    if observed.cancel:
        decision = case.settled(State.CANCELLED, Reason.CANCELLED, "cancelled by its user")
        strays = _strays(observed)
    elif other is not None and _is_of(other, step):
        text, code = other.contradiction, ExitCode.FOLDER_TAKEN
        decision = case.settled(State.BLOCKED, Reason.RESULT_CONTRADICTS, text, code)
        strays = _strays(observed)
    else:
        parent = proofs[step.after].checkpoint if step.after else None
        decision = _decide_stage(case, parent, observed.suspend)
        strays = _strays(observed, watched=step.kind)
    return _once_alone(replace(decision, stages=stages | decision.stages), strays)


def _attempts(observed: RunObserved, kind: StageKind) -> tuple[AttemptObserved, ...]:
    return observed.attempts.get(kind, ())


def _past(observed: RunObserved, kind: StageKind) -> PastAttempts:
    return observed.past.get(kind, PastAttempts())


def _proofs(plan: Plan, observed: RunObserved) -> dict[StageKind, StageResult]:
    """Results of the stages from the first on that are done as they are planned now."""
    proofs: dict[StageKind, StageResult] = {}
    parent: CheckpointRef | None = None
    for step in plan.train_steps:
        result = observed.results.get(step.kind)
        if result is None or not _is_of(result, step):
            break
        if result.config_hash != step.config_hash(parent):
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
    held = sorted(running | observed.draining)
    return tuple(StopAttempt(kind, number, "it is done with") for kind, number in held)


def _once_alone(decision: Decision, strays: tuple[StopAttempt, ...]) -> Decision:
    """The same, but nothing starts and nothing is settled while strays run."""
    if not strays:
        return decision
    stops = tuple(action for action in decision.actions if isinstance(action, StopAttempt))
    waiting = {
        action.kind: replace(decision.stages[action.kind], state=State.PENDING)
        for action in decision.actions
        if isinstance(action, StartAttempt)
    }
    is_settled = decision.state in SETTLED
    return Decision(
        State.STOPPING if is_settled else decision.state,
        Reason.DRAINING if is_settled or waiting else decision.reason,
        decision.stages | waiting,
        strays + stops,
        decision.message,
        requeue_after_seconds=_POLL_SECONDS,
    )


def _decide_stage(case: _Case, parent: CheckpointRef | None, suspend: bool) -> Decision:
    last = case.last
    if last is not None and last.state == "running":
        return _watch(case, last, suspend)
    code = meaning_of(last.exit_code) if last is not None and last.state == "ended" else None
    if last is not None and code in PERMANENT:
        return case.settled(State.FAILED, _REASONS[code], last.message, code)
    if last is not None and code == ExitCode.FOLDER_TAKEN:
        # Its store holds what contradicts it, and will at the next attempt.
        return case.settled(State.BLOCKED, _REASONS[code], last.message, code)
    if last is not None and code in NEEDS_HELP and (case.help_seconds is None or suspend):
        return case.settled(State.BLOCKED, _REASONS[code], last.message, code)
    if suspend:
        text = "stopped; the last checkpoint is kept"
        return case.settled(State.SUSPENDED, Reason.SUSPENDED, text)
    if last is not None:
        verdict = _judge(case, last)
        if verdict is not None:
            return verdict
    number = last.number + 1 if last else 1
    start = StartAttempt(case.step.kind, number, parent)
    stages = {case.step.kind: StageVerdict(State.RUNNING, number, case.faults)}
    return Decision(
        State.RUNNING, Reason.STARTING, stages, (start,), requeue_after_seconds=_POLL_SECONDS
    )


def _watch(case: _Case, last: AttemptObserved, suspend: bool) -> Decision:
    """A running attempt goes on, unless the user or a deadline wants it stopped."""
    text, by = _reason_to_stop(case, last, suspend)
    state = State.STOPPING if text else State.RUNNING
    going = Reason.TRAINING if last.has_stepped else Reason.STARTING
    actions = (StopAttempt(case.step.kind, last.number, text, by),) if text else ()
    return Decision(
        state,
        Reason.STOPPING if text else going,
        {case.step.kind: case.verdict(state, text)},
        actions,
        text,
        requeue_after_seconds=min(_POLL_SECONDS, _until_deadline(case, last)),
    )


def _until_deadline(case: _Case, last: AttemptObserved) -> float:
    """Seconds until the next deadline has passed, if it has not yet; else infinity."""
    policy, limits = case.policy, []
    if not last.has_stepped:
        limits.append(policy.start_deadline_seconds - (case.now - last.started_at))
    if policy.stage_deadline_seconds is not None:
        limits.append(policy.stage_deadline_seconds - case.seconds)
    left = (limit + _AFTER_SECONDS for limit in limits if limit + _AFTER_SECONDS > 0)
    return min(left, default=math.inf)


def _reason_to_stop(
    case: _Case, last: AttemptObserved, suspend: bool
) -> tuple[str, Literal["user", "deadline"]]:
    policy = case.policy
    if suspend:
        return "suspended", "user"
    if last.is_outdated:
        return "its settings were changed before it could start", "user"
    if not last.has_stepped and case.now - last.started_at > policy.start_deadline_seconds:
        text = f"no step within startDeadlineSeconds ({policy.start_deadline_seconds})"
        return text, "deadline"
    if case.is_over_deadline:
        text = f"longer than stageDeadlineSeconds ({policy.stage_deadline_seconds})"
        return text, "deadline"
    return "", "user"


def seconds_of(attempt: AttemptObserved, now: float) -> float:
    """How long it ran, or has been running."""
    return (now if attempt.state == "running" else attempt.ended_at) - attempt.started_at


def _judge(case: _Case, last: AttemptObserved) -> Decision | None:
    """Whether the attempts so far settle the stage or ask for a pause; None: try again."""
    policy, faults = case.policy, case.faults
    if case.is_over_deadline:
        text = f"longer than stageDeadlineSeconds ({policy.stage_deadline_seconds})"
        return case.settled(State.FAILED, Reason.STAGE_DEADLINE_EXCEEDED, text, ExitCode.CRASHED)
    cause = "ended well without a result" if last.exit_code == ExitCode.DONE else last.message
    if faults > policy.max_restarts:
        text = f"failed {faults} times, maxRestarts is {policy.max_restarts}; last: {cause}"
        return case.settled(State.FAILED, Reason.RESTARTS_EXCEEDED, text, ExitCode.CRASHED)
    if case.preemptions > policy.max_preemptions:
        text = f"preempted {case.preemptions} times, maxPreemptions is {policy.max_preemptions}"
        return case.settled(State.FAILED, Reason.PREEMPTIONS_EXCEEDED, text, ExitCode.CRASHED)
    return _pause(case, last, cause)


def _pause(case: _Case, last: AttemptObserved, cause: str) -> Decision | None:
    """The wait before the next attempt, if there is one."""
    reason, seconds = Reason.BACKING_OFF, 0.0
    if _needs_help(last):
        reason, seconds = Reason.STORE_FAILED, case.help_seconds or 0.0
    elif is_fault(last, case.policy):
        seconds = backoff_seconds(case.faults)
    elif last.state == "preempted" and not last.has_stepped:
        # A node that rejects every pod must not use up the budget in a minute.
        seconds = backoff_seconds(case.preemptions - 1)
    wait = last.ended_at + seconds - case.now
    if wait <= 0:
        return None
    # In steps, so that what is shown, and stored, does not change all the time.
    verdict = case.verdict(State.PENDING, f"tries again after a pause of {seconds:.0f} s")
    return Decision(
        State.RUNNING,
        reason,
        {case.step.kind: verdict},
        message=cause,
        requeue_after_seconds=wait,
    )


def _needs_help(attempt: AttemptObserved) -> bool:
    return attempt.state == "ended" and meaning_of(attempt.exit_code) in NEEDS_HELP


def is_fault(attempt: AttemptObserved, policy: FailurePolicy) -> bool:
    """Whether an attempt that did not prove its stage counts against the budget.

    Interrupted and preempted ones do not, nor those that wait for help or were asked to save
    themselves, unless for never having got to a first step.
    """
    if attempt.state != "ended" or _needs_help(attempt):
        return False
    if attempt.exit_code != ExitCode.SAVED:
        return True
    seconds = attempt.ended_at - attempt.started_at
    return not attempt.has_stepped and seconds > policy.start_deadline_seconds


def backoff_seconds(faults: int) -> float:
    """Pause before the next attempt: 1 s after the first fault, doubling up to five minutes."""
    return min(_MAX_BACKOFF_SECONDS, 2.0 ** max(0, faults - 1)) if faults else 0.0
