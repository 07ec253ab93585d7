"""decide(): one example for each situation that a run can be in."""

from dataclasses import replace

import pytest

from decide_examples import (
    ALIGN,
    EXAMPLES,
    NOW,
    OTHER_PARENT,
    OTHER_SEED,
    SFT,
    STOPPED,
    Example,
    start,
)
from observed_builders import a_proof, ended, interrupted, observed, preempted, running
from prism_api.exit_codes import ExitCode
from prism_api.resources import FailurePolicy
from prism_api.status import State
from prism_operator.planning.decide import (
    Decision,
    StopAttempt,
    backoff_seconds,
    decide,
)
from prism_operator.planning.observation import AttemptObserved, RunObserved
from run_builders import a_plan

PLAN = a_plan()
POLICY = FailurePolicy(
    max_restarts=2, max_preemptions=3, start_deadline_seconds=100, stage_deadline_seconds=1000
)


def decided(found: RunObserved, now: float = NOW, policy: FailurePolicy = POLICY) -> Decision:
    return decide(PLAN, policy, found, now)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_what_follows(example: Example) -> None:
    decision = decided(example.found, example.now)

    assert decision.state is example.state
    if isinstance(example.action, tuple):
        (action,) = decision.actions
        assert isinstance(action, StopAttempt)
        assert (action.kind, action.attempt) == example.action
        assert action.reason
    else:
        assert decision.actions == ((example.action,) if example.action else ())


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_a_decision_shows_every_stage_in_order(example: Example) -> None:
    decision = decided(example.found, example.now)

    assert list(decision.stages) == ["sft", "align", "rlvr"]


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_only_a_settled_run_is_not_looked_at_again(example: Example) -> None:
    decision = decided(example.found, example.now)

    settled = decision.state in (State.SUCCEEDED, State.FAILED, State.BLOCKED, State.SUSPENDED)
    assert (decision.requeue_after_seconds is None) == settled


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (observed(sft=[ended(64)]), ExitCode.BAD_CONFIG),
        (observed(sft=[ended(65)]), ExitCode.BAD_DATA),
        (observed(sft=[ended(70)]), ExitCode.NON_FINITE),
        (observed(sft=[ended(74)]), ExitCode.STORE),
        (observed(sft=[ended(1, n) for n in (1, 2, 3)]), ExitCode.CRASHED),
        (observed(sft=[ended(0, n) for n in (1, 2, 3)]), ExitCode.CRASHED),
        (observed(sft=[ended(STOPPED, ended_at=1001)]), ExitCode.CRASHED),
        (observed(sft=[preempted(n) for n in range(1, 5)]), ExitCode.CRASHED),
        (observed(results=(OTHER_SEED,)), ExitCode.FOLDER_TAKEN),
    ],
)
def test_a_failed_run_never_looks_done_or_merely_stopped(
    found: RunObserved, code: ExitCode
) -> None:
    assert decided(found, 9999).exit_code is code


def test_the_last_message_of_the_trainer_is_passed_on() -> None:
    assert decided(observed(sft=[ended(65, message="row 3 is bad")])).message == "row 3 is bad"
    failed = decided(observed(sft=[ended(1, n, message=f"{n}!") for n in (1, 2, 3)]))
    assert failed.message == "failed 3 times, maxRestarts is 2; last: 3!"


def test_a_result_that_proves_nothing_is_named_with_what_to_do() -> None:
    decision = decided(observed(results=(SFT, OTHER_PARENT)))

    assert decision.message == decision.stages["align"].message
    assert decision.message.startswith(
        "align: its result (attempt 1) was made under other settings"
    )
    assert "undo the change" in decision.message


def test_too_many_preemptions_are_counted_for_the_reader() -> None:
    decision = decided(observed(sft=[preempted(n) for n in range(1, 5)]))

    assert decision.message == "preempted 4 times, maxPreemptions is 3"


def test_the_status_counts_faults() -> None:
    found = observed(sft=[ended(1, 1), interrupted(2), ended(STOPPED, 3), running(4)])

    status = decided(found).stages["sft"]

    assert (status.state, status.attempt, status.faults) == (State.RUNNING, 4, 1)


def test_the_faults_of_a_proven_stage_are_kept() -> None:
    found = observed(results=(a_proof("sft", 2),), sft=[ended(1, 1), ended(0, 2)])

    status = decided(found).stages["sft"]

    assert (status.state, status.attempt, status.faults) == (State.SUCCEEDED, 2, 1)


@pytest.mark.parametrize(
    ("faults", "seconds"),
    [(0, 0), (1, 1), (2, 2), (3, 4), (4, 8), (9, 256), (10, 300), (1000, 300)],
)
def test_pauses_double_up_to_five_minutes(faults: int, seconds: float) -> None:
    assert backoff_seconds(faults) == seconds


def test_machines_that_are_taken_away_again_and_again_before_a_step_are_asked_for_less_often() -> (
    None
):
    def attempts(count: int, *, has_stepped: bool) -> RunObserved:
        gone = [replace(preempted(n), has_stepped=has_stepped) for n in range(1, count + 1)]
        return observed(sft=gone)

    ended_at = preempted(1).ended_at
    policy = FailurePolicy()
    assert decided(attempts(1, has_stepped=False), ended_at, policy).actions == (start("sft", 2),)
    third = decided(attempts(3, has_stepped=False), ended_at, policy)
    assert (third.actions, third.requeue_after_seconds) == ((), 2.0)
    assert decided(attempts(3, has_stepped=False), ended_at + 2, policy).actions != ()
    assert decided(attempts(3, has_stepped=True), ended_at, policy).actions != ()


def test_the_pause_counts_from_the_end_of_the_attempt() -> None:
    policy = FailurePolicy(max_restarts=9, start_deadline_seconds=100)
    found = observed(sft=[ended(1, n, 10 * n, 10 * n + 5) for n in (1, 2, 3)])

    early = decided(found, 38.0, policy)
    assert (early.actions, early.requeue_after_seconds) == ((), 1.0)
    assert early.stages["sft"].message == "tries again after a pause of 4 s"
    assert decided(found, 39.0, policy).actions == (start("sft", 4),)


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [(running(has_stepped=False), 20.0), (running(started_at=-50.0), 10.0), (running(), 30.0)],
    ids=["start", "stage", "neither is near"],
)
def test_a_deadline_is_looked_at_again_as_soon_as_it_has_passed(
    attempt: AttemptObserved, seconds: float
) -> None:
    policy = FailurePolicy(start_deadline_seconds=70, stage_deadline_seconds=110)

    pause = decided(observed(sft=[attempt]), 50.0, policy).requeue_after_seconds

    assert pause == pytest.approx(seconds, abs=0.2)
    assert pause is not None
    assert decided(observed(sft=[attempt]), 50.0 + pause, policy).actions != () or seconds == 30.0


def test_a_moved_store_proves_as_much() -> None:
    """Where a checkpoint lies does not matter, only what it is."""
    moved = SFT.checkpoint.model_copy(update={"uri": "file:///moved/sft/a1/step-9"})
    sft = SFT.model_copy(update={"checkpoint": moved})

    assert decided(observed(results=(sft, ALIGN))).actions == (start("rlvr", 1, ALIGN),)


def test_a_larger_cap_lets_a_preempted_run_go_on() -> None:
    found = observed(sft=[preempted(n) for n in range(1, 5)])

    assert decided(found, policy=FailurePolicy()).actions == (start("sft", 5),)


def test_a_smaller_budget_applies_from_the_next_attempt() -> None:
    found = observed(sft=[ended(1, 1), interrupted(2)])

    assert decided(found, policy=FailurePolicy(max_restarts=0)).state is State.FAILED
    assert decided(found, policy=FailurePolicy(max_restarts=1)).actions == (start("sft", 3),)
