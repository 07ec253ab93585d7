"""Events tell a run's story: what happened, once each, and never a step."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_api.names import STAGE_ORDER, StageKind
from prism_api.reporting import StageReport
from prism_api.status import (
    AttemptStatus,
    Condition,
    GpuSeconds,
    PrismRunStatus,
    Restarts,
    StageStatus,
    State,
)
from prism_operator.cluster.events import (
    MAX_NOTE_BYTES,
    Note,
    RunReference,
    build_event,
    notes_between,
    shortened,
)
from report_builders import a_result, an_evaluation

START = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
RUN = RunReference("team-a", "qwen", "0d8c1f2e-5b7a-4c1d-9a31-7f6f2f0f9b11")


def accepted(status: str = "True", reason: str = "Valid", message: str = "") -> dict[str, Any]:
    """The condition, as a part of a status."""
    condition = Condition.model_validate(
        {"type": "Accepted", "status": status, "reason": reason, "message": message}
        | {"last_transition_time": START},
        by_name=True,
    )
    return {"conditions": (condition,)}


def an_attempt(number: int = 1, **fields: Any) -> AttemptStatus:
    """One that was started at START."""
    return AttemptStatus(number=number, started_at=START, **fields)


def a_report(kind: StageKind = "sft", **changes: Any) -> StageReport:
    """The proof that a stage is done."""
    digest = "a" * 64
    return StageReport(uri="s3://b/result.json", digest=digest, result=a_result(kind, **changes))


def running(attempt: AttemptStatus | None, kind: StageKind = "sft", **stage: Any) -> PrismRunStatus:
    """A run with one stage."""
    status = StageStatus(state=State.RUNNING, attempt=attempt, **stage)
    return PrismRunStatus(state=State.RUNNING, stages={kind: status})


def reasons(before: PrismRunStatus, after: PrismRunStatus) -> list[str]:
    """Of its notes, in order."""
    return [note.reason for note in notes_between(before, after)]


# --- notes ---


def test_the_story_of_a_run_is_told_in_order() -> None:
    failed = an_attempt(
        trainer_started_at=START, outcome="ended", exit_code=1, message="CUDA error"
    )
    done = {"outcome": "ended", "exit_code": 0}
    evaluation = an_evaluation(correct=672)
    statuses = [
        PrismRunStatus(),
        PrismRunStatus(**accepted()),
        running(an_attempt()),
        running(an_attempt(message="no image trainer:9")),
        running(an_attempt(trainer_started_at=START, stepped_at=START), step=1),
        running(an_attempt(trainer_started_at=START, stepped_at=START), step=2),
        running(failed),
        running(an_attempt(2), restarts=Restarts(faults=1)),
        running(an_attempt(2, outcome="preempted", message="node n7 is gone")),
        running(an_attempt(3)),
        running(an_attempt(3, **done), result=a_report(evaluation=evaluation)),
        PrismRunStatus(
            state=State.SUCCEEDED,
            stages={
                "sft": StageStatus(
                    state=State.SUCCEEDED,
                    attempt=an_attempt(3, **done),
                    result=a_report(evaluation=evaluation),
                )
            },
        ),
    ]
    pairs = pairwise(statuses)
    told = [note for before, after in pairs for note in notes_between(before, after)]
    assert [(note.reason, note.type, note.message.split(";")[0]) for note in told] == [
        ("Accepted", "Normal", "the run is valid and planned"),
        ("StageStarted", "Normal", "sft: attempt 1 is started"),
        ("CannotStart", "Warning", "sft: attempt 1: no image trainer:9"),
        ("AttemptFailed", "Warning", "sft: attempt 1 ended with exit code 1: CUDA error"),
        ("AttemptStarted", "Normal", "sft: attempt 2 is started"),
        ("AttemptPreempted", "Warning", "sft: attempt 2 lost its machines: node n7 is gone"),
        ("AttemptStarted", "Normal", "sft: attempt 3 is started"),
        (
            "StageSucceeded",
            "Normal",
            "sft: done after 400 optimizer steps, accuracy 87.5% of 768 held-out questions",
        ),
        ("Succeeded", "Normal", "all stages are done"),
    ]


def test_a_refused_spec_says_why_and_again_only_for_another_reason() -> None:
    refused = PrismRunStatus(**accepted("False", "NoSuchQueue", "spec.queue.name: no queue x"))
    other = PrismRunStatus(**accepted("False", "NameTaken", "a ConfigMap is in the way"))
    (note,) = notes_between(PrismRunStatus(), refused)
    assert note == Note("NoSuchQueue", "spec.queue.name: no queue x", "Warning")
    assert reasons(refused, other) == ["NameTaken"]
    assert reasons(other, PrismRunStatus(**accepted())) == ["Accepted"]
    assert reasons(PrismRunStatus(**accepted()), refused) == ["NoSuchQueue"]


def test_suspending_and_resuming_is_told_with_what_was_stopped() -> None:
    before = running(an_attempt(trainer_started_at=START))
    stopped = an_attempt(
        trainer_started_at=START, stopping="suspended", outcome="interrupted", message="saved"
    )
    suspended = PrismRunStatus(
        state=State.SUSPENDED,
        stages={"sft": StageStatus(state=State.SUSPENDED, attempt=stopped)},
    )
    assert [(n.reason, n.message) for n in notes_between(before, suspended)] == [
        ("AttemptStopped", "sft: attempt 1 was stopped (suspended): saved"),
        ("Suspended", "holds no GPU until it is resumed"),
    ]
    assert reasons(suspended, running(an_attempt(2))) == ["Resumed", "AttemptStarted"]


@pytest.mark.parametrize(
    ("state", "note"),
    [
        (State.BLOCKED, Note("Blocked", "the disk is full: make room", "Warning")),
        (State.FAILED, Note("Failed", "the disk is full: make room", "Warning")),
        (State.SUSPENDED, Note("Suspended", "the disk is full: make room")),
        (State.SUCCEEDED, Note("Succeeded", "the disk is full: make room")),
    ],
)
def test_how_a_run_settles_is_told_with_its_message(state: State, note: Note) -> None:
    after = PrismRunStatus(state=state, message="the disk is full: make room")
    assert notes_between(PrismRunStatus(), after) == (note,)


def test_what_keeps_an_attempt_from_starting_is_told_once_per_attempt() -> None:
    first = running(an_attempt(message="no image trainer:9 (ErrImagePull)"))
    reworded = running(an_attempt(message="no image trainer:9 (ImagePullBackOff)"))
    assert reasons(running(an_attempt()), first) == ["CannotStart"]
    assert reasons(first, reworded) == []
    again = running(an_attempt(2, message="no image trainer:9"))
    assert reasons(first, again) == ["AttemptStarted", "CannotStart"]


def test_what_an_attempt_that_runs_or_is_stopped_says_is_no_obstacle() -> None:
    for fields in ({"trainer_started_at": START}, {"stopping": "deadline"}):
        after = running(an_attempt(message="words", **fields))
        assert reasons(running(an_attempt(**fields)), after) == []


def test_an_attempt_that_ended_well_without_a_result_has_failed() -> None:
    after = running(an_attempt(trainer_started_at=START, outcome="ended", exit_code=0))
    (note,) = notes_between(running(an_attempt(trainer_started_at=START)), after)
    assert note == Note("AttemptFailed", "sft: attempt 1 ended without a result", "Warning")


def test_an_attempt_that_came_and_went_between_two_writes_is_told_whole() -> None:
    after = running(an_attempt(outcome="preempted"))
    assert reasons(PrismRunStatus(), after) == ["StageStarted", "AttemptPreempted"]


ATTEMPTS = st.none() | st.builds(
    an_attempt,
    st.integers(1, 3),
    outcome=st.sampled_from([None, "ended", "preempted", "interrupted"]),
    exit_code=st.sampled_from([None, 0, 1, 74]),
    message=st.sampled_from(["", "why"]),
    stopping=st.sampled_from(["", "suspended"]),
    trainer_started_at=st.sampled_from([None, START]),
)
STAGES = st.builds(
    StageStatus,
    state=st.sampled_from(list(State)),
    attempt=ATTEMPTS,
    result=st.sampled_from([None, a_report()]),
)
STATUSES = st.builds(
    PrismRunStatus,
    state=st.sampled_from(list(State)),
    message=st.sampled_from(["", "why"]),
    stages=st.dictionaries(st.sampled_from(STAGE_ORDER), STAGES),
)


@given(STATUSES)
def test_nothing_happened_between_a_status_and_itself(status: PrismRunStatus) -> None:
    assert notes_between(status, status) == ()


@given(STATUSES, STATUSES)
def test_any_two_statuses_give_a_handful_of_notes_that_the_api_server_takes(
    before: PrismRunStatus, after: PrismRunStatus
) -> None:
    notes = notes_between(before, after)
    assert len(notes) <= 3 + 4 * len(after.stages)
    for note in notes:
        assert note.reason.isalnum()
        assert note.message


@given(
    STATUSES,
    st.lists(st.tuples(st.integers(0, 500), st.floats(0, 1), st.floats(0, 1e6)), max_size=5),
)
def test_progress_is_nothing_that_happened(
    status: PrismRunStatus, progress: list[tuple[int, float, float]]
) -> None:
    before = status
    for step, reward, seconds in progress:
        update = {
            "step": step,
            "metrics": {"reward": reward},
            "gpu_seconds": GpuSeconds(allocated=seconds),
            "message": f"step {step}",
        }
        stages = {k: stage.model_copy(update=update) for k, stage in status.stages.items()}
        after = status.model_copy(
            update={"stages": stages, "step": f"{step}/500", "reward": reward, "message": str(step)}
        )
        assert notes_between(before, after) == ()
        before = after


# --- events ---


def test_an_event_has_what_events_k8s_io_requires() -> None:
    note = Note("StageStarted", "sft: attempt 1 is started")
    event = build_event(RUN, note, START, "prism-operator-5d4-x7")
    name = event["metadata"].pop("name")
    assert name.startswith("qwen.")
    assert len(name) <= 253
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "team-a"},
        "eventTime": "2026-01-02T03:04:05.678901Z",
        "type": "Normal",
        "reason": "StageStarted",
        "action": "Reconcile",
        "note": "sft: attempt 1 is started",
        "regarding": {
            "apiVersion": "prism.dev/v1alpha1",
            "kind": "PrismRun",
            "namespace": "team-a",
            "name": "qwen",
            "uid": RUN.uid,
        },
        "reportingController": "prism.dev/operator",
        "reportingInstance": "prism-operator-5d4-x7",
    }


def test_an_event_s_name_is_of_what_happened_and_when() -> None:
    def name(note: Note, now: datetime) -> str:
        return str(build_event(RUN, note, now, "pod")["metadata"]["name"])

    one, other = Note("Suspended", "why"), Note("Suspended", "else")
    elsewhere = START.astimezone(timezone(timedelta(hours=9)))
    assert name(one, START) == name(one, elsewhere)
    assert len({name(one, START), name(other, START), name(one, START + timedelta(seconds=1))}) == 3


@given(st.text(st.characters(exclude_categories=()), max_size=3000), st.integers(4, 1024))
def test_a_text_is_cut_at_a_whole_character(text: str, limit: int) -> None:
    cut = shortened(text, limit)
    assert len(cut.encode()) <= limit
    clean = text.encode(errors="replace").decode()
    if cut != clean:
        assert cut.endswith("...")
        assert clean.startswith(cut.removesuffix("..."))
        assert len(cut.encode()) > limit - 4


def test_a_long_note_fits() -> None:
    event = build_event(RUN, Note("Failed", "ä" * 4096, "Warning"), START, "pod")
    assert MAX_NOTE_BYTES - 4 < len(event["note"].encode()) <= MAX_NOTE_BYTES
