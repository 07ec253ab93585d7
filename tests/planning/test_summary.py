"""summarize(): conditions and print columns say where a run stands, and why."""

from datetime import datetime
from typing import Any

import pytest

from prism_api.reasons import Reason
from prism_api.status import AttemptStatus, Condition, PrismRunStatus, StageStatus, State
from prism_operator.planning.decide import Decision
from prism_operator.planning.sightings import ChildrenSeen
from prism_operator.planning.summary import refused, summarize
from report_builders import an_evaluation
from run_builders import a_plan
from sighting_builders import NOW, a_job, a_pod, an_attempt, later
from simulated_cluster import report_of

PLAN = a_plan()
RUNNING = StageStatus(state=State.RUNNING, attempt=an_attempt())
PENDING = StageStatus()


def decided(state: State, reason: Reason, message: str = "") -> Decision:
    return Decision(state, reason, {}, message=message)


def summary(
    decision: Decision,
    stored: PrismRunStatus | None = None,
    now: datetime = NOW,
    seen: ChildrenSeen | None = None,
    **stages: StageStatus,
) -> PrismRunStatus:
    found: Any = {"sft": PENDING, "align": PENDING, "rlvr": PENDING} | stages
    return summarize(stored or PrismRunStatus(), found, decision, seen or ChildrenSeen(), 3, now)


def answers(status: PrismRunStatus) -> str:
    """The first letters of the conditions that hold."""
    return "".join(c.type[:2] for c in status.conditions if c.status == "True")


def the(status: PrismRunStatus, question: str) -> Condition:
    return next(c for c in status.conditions if c.type == question)


@pytest.mark.parametrize(
    ("state", "reason", "holds"),
    [
        (State.RUNNING, Reason.TRAINING, "AcRu"),
        (State.RUNNING, Reason.STARTING, "Ac"),
        (State.RUNNING, Reason.BACKING_OFF, "Ac"),
        (State.STOPPING, Reason.STOPPING, "Ac"),
        (State.SUSPENDED, Reason.SUSPENDED, "AcSu"),
        (State.BLOCKED, Reason.RESULT_CONTRADICTS, "Ac"),
        (State.SUCCEEDED, Reason.COMPLETED, "AcSu"),
        (State.FAILED, Reason.BAD_DATA, "AcFa"),
        (State.CANCELLED, Reason.CANCELLED, "AcFa"),
    ],
)
def test_which_conditions_hold(state: State, reason: Reason, holds: str) -> None:
    status = summary(decided(state, reason, "why"), sft=RUNNING)

    assert answers(status) == holds
    assert [c.type for c in status.conditions] == [
        "Accepted", "Running", "Suspended", "Succeeded", "Failed"
    ]  # fmt: skip
    assert {c.observed_generation for c in status.conditions} == {status.observed_generation} == {3}
    assert (the(status, "Running").reason, the(status, "Running").message) == (reason, "why")
    assert status.completion_time == (NOW if holds == "AcFa" or "COMP" in reason.name else None)


def test_a_condition_keeps_its_time_until_its_answer_changes() -> None:
    first = summary(decided(State.RUNNING, Reason.STARTING), sft=RUNNING)
    second = summary(decided(State.RUNNING, Reason.TRAINING), first, later(5), sft=RUNNING)
    third = summary(decided(State.RUNNING, Reason.TRAINING, "x"), second, later(9), sft=RUNNING)

    assert the(second, "Running").last_transition_time == later(5)
    assert the(second, "Failed").last_transition_time == NOW
    assert the(third, "Running").last_transition_time == later(5)
    assert the(third, "Running").message == "x"


def test_a_start_that_is_held_up_says_by_what() -> None:
    def told(**facts: Any) -> tuple[str, str]:
        trouble, is_queued = facts.pop("trouble", ""), facts.pop("is_queued", False)
        jobs = (a_job(is_queued=is_queued),)
        stage = StageStatus(state=State.RUNNING, attempt=an_attempt(has_started=False, **facts))
        starting = decided(State.RUNNING, Reason.STARTING)
        status = summary(starting, seen=ChildrenSeen(jobs, trouble=trouble), sft=stage)
        return the(status, "Running").reason, status.message

    assert told() == (Reason.STARTING, "")
    assert told(message="no image") == (Reason.BLOCKED, "no image")
    waits = "waits for admission by Kueue"
    assert told(is_queued=True, admitted_at=None) == (Reason.QUEUED, waits)
    assert told(is_queued=True, message="no queue") == (Reason.BLOCKED, "no queue")
    assert told(message="it ended", outcome="ended") == (Reason.STARTING, "")


def test_a_run_that_waits_for_pods_to_end_says_which_and_what_to_do_about_a_lost_node() -> None:
    pods = (a_pod(1, is_deleting=True), a_pod(0), a_pod(2, "Failed"))
    draining = decided(State.RUNNING, Reason.DRAINING)
    status = summary(draining, seen=ChildrenSeen(pods=pods), sft=RUNNING)
    assert the(status, "Running").reason == Reason.DRAINING
    assert "run-sft-a1-worker-0, run-sft-a1-worker-1; if their node is lost" in status.message
    assert "worker-2" not in status.message


def test_a_run_whose_progress_cannot_be_asked_for_says_where_and_what_to_do() -> None:
    seen = ChildrenSeen(unreached="http://10.0.0.5:8080/progress")
    status = summary(decided(State.RUNNING, Reason.TRAINING), seen=seen, sft=RUNNING)
    assert the(status, "Running").status == "True"
    assert "http://10.0.0.5:8080/progress does not answer" in status.message
    assert summary(decided(State.SUCCEEDED, Reason.COMPLETED), seen=seen).message == ""
    assert "NetworkPolicy" in status.message


def test_trouble_is_told_where_nothing_else_is() -> None:
    seen = ChildrenSeen(trouble="a name is taken")
    assert summary(decided(State.RUNNING, Reason.TRAINING), seen=seen).message == "a name is taken"
    said = summary(decided(State.SUSPENDED, Reason.SUSPENDED, "stopped"), seen=seen)
    assert said.message == "stopped"


def test_print_columns_are_of_the_stage_that_is_worked_on() -> None:
    report = report_of(PLAN.train_steps[0].config(1, None))
    done = StageStatus(state=State.SUCCEEDED, result=report, step=9, steps=9,
                       attempt=an_attempt(number=3, outcome="ended", exit_code=0))  # fmt: skip
    going = StageStatus(state=State.RUNNING, step=4, steps=20, attempt=an_attempt(number=2),
                        metrics={"reward": 0.5, "loss": 1.0})  # fmt: skip
    status = summary(decided(State.RUNNING, Reason.TRAINING), sft=done, align=going)

    assert (status.current_stage, status.step, status.reward) == ("align", "4/20", 0.5)
    assert status.restarts == 2 + 1
    assert report.result.evaluation is not None
    assert status.accuracy == report.result.evaluation.accuracy


def test_accuracy_is_that_of_the_last_stage_that_was_evaluated() -> None:
    def done(place: int, correct: int | None) -> StageStatus:
        report = report_of(PLAN.train_steps[place].config(1, None))
        evaluation = an_evaluation(correct, 100) if correct is not None else None
        result = report.result.model_copy(update={"evaluation": evaluation})
        return StageStatus(result=report.model_copy(update={"result": result}))

    training = decided(State.RUNNING, Reason.TRAINING)
    assert summary(training, sft=done(0, 10), align=done(1, 30)).accuracy == 0.3
    assert summary(training, align=done(1, 30), sft=done(0, 10)).accuracy == 0.3
    assert summary(training, sft=done(0, 10), align=done(1, None)).accuracy == 0.1
    assert summary(training).accuracy is None


def test_the_first_step_is_the_start_for_ever() -> None:
    training = decided(State.RUNNING, Reason.TRAINING)
    assert summary(training, sft=RUNNING).start_time is None
    stepped = StageStatus(attempt=an_attempt(stepped_at=later(3)))
    first = summary(training, sft=stepped)
    assert first.start_time == later(3)

    again = StageStatus(attempt=AttemptStatus(number=2, started_at=NOW, stepped_at=later(99)))

    assert summary(training, first, later(99), sft=again).start_time == later(3)


def test_a_run_that_is_taken_up_again_has_not_ended() -> None:
    failed = summary(decided(State.FAILED, Reason.BAD_DATA), sft=RUNNING)
    later_on = summary(decided(State.FAILED, Reason.BAD_DATA), failed, later(5), sft=RUNNING)
    resumed = summary(decided(State.RUNNING, Reason.STARTING), failed, later(9), sft=RUNNING)

    assert (failed.completion_time, later_on.completion_time) == (NOW, NOW)
    assert resumed.completion_time is None
    assert the(resumed, "Failed").last_transition_time == later(9)


def test_a_spec_that_is_refused_leaves_what_runs_as_it_is() -> None:
    stored = summary(decided(State.RUNNING, Reason.TRAINING), sft=RUNNING)
    status = refused(stored, Reason.INVALID_SPEC, "spec.model: is missing", 4, later(5))

    accepted = the(status, "Accepted")
    assert (accepted.status, accepted.reason) == ("False", "InvalidSpec")
    assert accepted.last_transition_time == later(5)
    assert status.message == accepted.message == "spec.model: is missing"
    assert the(status, "Running") == the(stored, "Running")
    assert (status.stages, status.state, status.observed_generation) == (
        stored.stages, stored.state, 4
    )  # fmt: skip
    assert refused(status, Reason.INVALID_SPEC, "spec.model: is missing", 4, later(9)) == status
