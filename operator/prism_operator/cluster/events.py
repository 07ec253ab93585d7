"""What happened to a run, as Kubernetes Events: a handful per stage, never one per step.

They are events.k8s.io/v1 and not core/v1: that API refuses what is malformed, has one exact time
where core/v1 has a counter and two, and is what `kubectl events` and `kubectl describe` read as
well, for the API server keeps both as the same objects.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from prism_api.exit_codes import ExitCode
from prism_api.names import API_VERSION, GROUP, KIND, STAGE_ORDER, StageKind
from prism_api.reporting import StageReport
from prism_api.status import AttemptStatus, Condition, PrismRunStatus, StageStatus, State

CONTROLLER = f"{GROUP}/operator"
MAX_NOTE_BYTES = 1024
"""The API server refuses longer ones."""

_CUT = "..."
_ACTION = "Reconcile"


@dataclass(frozen=True)
class RunReference:
    """The PrismRun that an Event is about."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class Note:
    """Something that happened to a run."""

    reason: str
    """One word for programs."""
    message: str
    """For people: what, why, and what to do."""
    type: Literal["Normal", "Warning"] = "Normal"


def build_event(run: RunReference, note: Note, now: datetime, instance: str) -> dict[str, Any]:
    """The Event to create in the run's namespace; `instance` is this operator's pod.

    The same note at the same time has the same name: posted twice, it is there once.
    """
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    parts = "\n".join((run.uid, moment, note.reason, note.message))
    # What a termination message says need not be text that JSON can hold.
    digest = hashlib.sha256(parts.encode(errors="replace")).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": run.namespace, "name": f"{run.name}.{digest}"},
        "eventTime": moment,
        "type": note.type,
        "reason": note.reason,
        "action": _ACTION,
        "note": shortened(note.message, MAX_NOTE_BYTES),
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": run.namespace,
            "name": run.name,
            "uid": run.uid,
        },
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
    }


def shortened(text: str, limit: int) -> str:
    """The text, cut after a whole character so that it takes at most `limit` bytes of UTF-8."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - len(_CUT)].decode(errors="ignore") + _CUT


def notes_between(before: PrismRunStatus, after: PrismRunStatus) -> tuple[Note, ...]:
    """What a status says that the one before did not, in the order in which it happens.

    Depends on states, attempts, results and the condition Accepted only, which change a handful of
    times per stage; progress, metrics and wording are nothing that happened.
    """
    return tuple(_notes(before, after))


def _notes(before: PrismRunStatus, after: PrismRunStatus) -> Iterator[Note]:
    yield from _verdict(_accepted(before), _accepted(after))
    if before.state is State.SUSPENDED and after.state is not State.SUSPENDED:
        yield Note("Resumed", "is no longer suspended")
    for kind in STAGE_ORDER:
        stage = after.stages.get(kind)
        if stage is not None:
            yield from _stage_notes(kind, before.stages.get(kind, StageStatus()), stage)
    if after.state is not before.state:
        yield from _settled(after)


def _accepted(status: PrismRunStatus) -> Condition | None:
    return next((c for c in status.conditions if c.type == "Accepted"), None)


def _verdict(before: Condition | None, after: Condition | None) -> Iterator[Note]:
    if after is None or after.status == "Unknown":
        return
    old = (before.status, before.reason) if before else None
    if after.status == "False" and (after.status, after.reason) != old:
        yield Note(after.reason, after.message, "Warning")
    if after.status == "True" and (before is None or before.status != "True"):
        yield Note("Accepted", after.message or "the run is valid and planned")


def _stage_notes(kind: StageKind, before: StageStatus, after: StageStatus) -> Iterator[Note]:
    old, new = before.attempt, after.attempt
    if new is not None:
        same = old if old is not None and old.number == new.number else None
        yield from _attempt_notes(kind, same, new, after.result)
    if after.result and not before.result:
        yield Note("StageSucceeded", _success(kind, after.result))


def _attempt_notes(
    kind: StageKind, before: AttemptStatus | None, after: AttemptStatus, result: StageReport | None
) -> Iterator[Note]:
    if before is None:
        yield _started(kind, after)
    if after.outcome and not (before and before.outcome):
        yield from _ended(kind, after, result)
    if _obstacle(after) and not (before and _obstacle(before)):
        yield Note("CannotStart", f"{kind}: attempt {after.number}: {after.message}", "Warning")


def _started(kind: StageKind, attempt: AttemptStatus) -> Note:
    if attempt.number == 1:
        return Note("StageStarted", f"{kind}: attempt 1 is started")
    return Note("AttemptStarted", f"{kind}: attempt {attempt.number} is started")


def _ended(kind: StageKind, attempt: AttemptStatus, result: StageReport | None) -> Iterator[Note]:
    """How an attempt ended; the one that has finished the stage needs no note of its own, however
    its other pods ended."""
    if result is not None:
        return
    name, why = f"{kind}: attempt {attempt.number}", f": {attempt.message}".rstrip(": ")
    match attempt.outcome:
        case "preempted":
            yield Note("AttemptPreempted", f"{name} lost its machines{why}", "Warning")
        case "interrupted":
            reason = f" ({attempt.stopping})" if attempt.stopping else ""
            yield Note("AttemptStopped", f"{name} was stopped{reason}{why}")
        case "ended":
            is_silent = attempt.exit_code == ExitCode.DONE
            how = "without a result" if is_silent else f"with exit code {attempt.exit_code}"
            yield Note("AttemptFailed", f"{name} ended {how}{why}", "Warning")


def _obstacle(attempt: AttemptStatus) -> bool:
    """Whether something keeps it from starting."""
    waits = attempt.outcome is None and attempt.trainer_started_at is None
    return waits and not attempt.stopping and bool(attempt.message)


def _success(kind: StageKind, report: StageReport) -> str:
    result = report.result
    text = f"{kind}: done after {result.steps} optimizer steps"
    if result.evaluation is not None:
        share, samples = result.evaluation.accuracy, result.evaluation.samples
        text += f", accuracy {share:.1%} of {samples} held-out questions"
    return f"{text}; checkpoint {result.checkpoint.uri}"


def _settled(status: PrismRunStatus) -> Iterator[Note]:
    message = status.message
    match status.state:
        case State.SUCCEEDED:
            yield Note("Succeeded", message or "all stages are done")
        case State.FAILED:
            yield Note("Failed", message or "the run cannot go on", "Warning")
        case State.BLOCKED:
            yield Note("Blocked", message or "somebody has to act first", "Warning")
        case State.SUSPENDED:
            yield Note("Suspended", message or "holds no GPU until it is resumed")
