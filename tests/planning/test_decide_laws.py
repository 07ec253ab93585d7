"""Laws of decide(): whatever happens, in whatever order, these hold at every decision.

The machine plays the world (support/decided_run.py): attempts step, end, hang, are preempted; users
stop, continue, change the settings and undo that; results of other runs turn up. The laws are
checked by its own bookkeeping, not by decide's.
"""

from copy import deepcopy

import pytest
from hypothesis import settings
from hypothesis.stateful import rule

from decided_run import FINAL_CODES, NEEDS_HELP, SAVED, DecidedRun
from prism_api.status import State
from prism_operator.planning.decide import (
    Decision,
    StartAttempt,
    StopAttempt,
    backoff_seconds,
    decide,
)
from prism_operator.planning.observation import AttemptObserved

SETTLED = (State.SUCCEEDED, State.FAILED, State.BLOCKED, State.SUSPENDED, State.CANCELLED)


class World(DecidedRun):
    """What an executor makes of it, and the laws."""

    @rule()
    def look(self) -> None:
        """Observe, decide, check every law, act."""
        found = self.found()
        before = deepcopy(found)
        decision = decide(self.plan, self.policy, found, self.now, self.help_seconds)
        again = decide(self.plan, self.policy, before, self.now, self.help_seconds)
        assert decision == again, "decide is pure"
        assert found == before, "decide changes nothing"
        starts = [a for a in decision.actions if isinstance(a, StartAttempt)]
        stops = [a for a in decision.actions if isinstance(a, StopAttempt)]
        self.check_starts(starts)
        self.check_stops(stops)
        self.check_state(decision, starts)
        for start in starts:
            fresh = AttemptObserved(start.attempt, "running", started_at=self.now)
            self.attempts[start.kind].append(fresh)
            self.started_from[start.kind, start.attempt] = self.would_be_made_of(start.kind)
        self.last = decision

    def check_starts(self, starts: list[StartAttempt]) -> None:
        assert len(starts) <= 1
        for start in starts:
            before = self.kinds[: self.kinds.index(start.kind)]
            assert all(self.is_proven(kind) for kind in before)
            assert not self.is_proven(start.kind)
            assert not self.is_contradicted()
            parent = self.results[before[-1]].checkpoint if before else None
            assert start.init_from == parent
            assert not self.is_busy()
            assert not self.suspend
            assert not self.cancel
            self.check_may_follow(start)

    def check_may_follow(self, start: StartAttempt) -> None:
        earlier = self.attempts[start.kind]
        assert start.attempt == len(earlier) + 1
        assert not any(a.exit_code in (*FINAL_CODES, 73) for a in earlier)
        if earlier and earlier[-1].exit_code == NEEDS_HELP:
            assert self.help_seconds is not None
            assert self.now >= earlier[-1].ended_at + self.help_seconds
        faults = [a for a in earlier if self.is_fault(a)]
        assert len(faults) <= self.policy.max_restarts
        preempted = [a for a in earlier if a.state == "preempted"]
        assert len(preempted) <= self.policy.max_preemptions
        if earlier and self.is_fault(earlier[-1]):
            assert self.now >= earlier[-1].ended_at + backoff_seconds(len(faults))
        limit = self.policy.stage_deadline_seconds
        assert limit is None or self.seconds(start.kind) <= limit

    def check_stops(self, stops: list[StopAttempt]) -> None:
        asked = {(stop.kind, stop.attempt) for stop in stops}
        must = {(kind, a.number) for kind, a in self.all_running() if self.must_stop(kind, a)}
        assert asked == must | self.draining

    def check_state(self, decision: Decision, starts: list[StartAttempt]) -> None:
        assert (decision.state is State.SUCCEEDED) == (
            all(self.is_proven(kind) for kind in self.kinds) and not self.is_busy()
        )
        if decision.state in SETTLED:
            assert not self.is_busy()
            assert not decision.actions
        else:
            assert decision.requeue_after_seconds is not None
            assert decision.requeue_after_seconds > 0
        if decision.state is State.SUSPENDED:
            assert self.suspend
        is_cancelled = self.cancel and self.current() is not None
        if is_cancelled:
            assert decision.state is (State.STOPPING if self.is_busy() else State.CANCELLED)
        elif self.is_contradicted():
            assert decision.state is (State.STOPPING if self.is_busy() else State.BLOCKED)
        assert is_cancelled or decision.state is not State.CANCELLED
        if decision.state in (State.FAILED, State.BLOCKED):
            assert decision.exit_code not in (None, 0, SAVED)
        shown = {kind for kind, s in decision.stages.items() if s.state is State.SUCCEEDED}
        assert all(self.is_proven(kind) for kind in shown)

    def teardown(self) -> None:
        """From anywhere, if all goes well from now on, the run is settled in a few steps."""
        if not hasattr(self, "plan"):
            return
        self.suspend, self.cancel, self.draining = False, False, set()
        for _ in range(4 * len(self.kinds) + 4):
            while self.all_running():
                self.an_attempt_succeeds(lingers=False)
            self.look()
            assert self.last is not None
            if self.last.state in SETTLED:
                return
            self.now += self.last.requeue_after_seconds or 0.0
        raise AssertionError(f"it never ends: {self.last}")


World.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


TestLaws = World.TestCase
"""Hypothesis runs the machine through unittest."""


@pytest.mark.parametrize("code", FINAL_CODES)
def test_the_world_does_reach_what_the_laws_are_about(code: int) -> None:
    """A machine that never gets there would prove nothing."""
    world = World()
    world.begin({"sft", "rlvr"}, restarts=1, start_deadline=50, stage_deadline=None)
    world.look()
    world.an_attempt_succeeds(lingers=True)
    world.look()
    assert len(world.all_running()) == 1
    world.an_attempt_ends(0)
    world.look()
    world.an_attempt_ends(code)
    world.look()

    assert world.last is not None
    assert (world.last.state, world.last.exit_code) == (State.FAILED, code)
    assert len(world.attempts["rlvr"]) == 1


def test_the_world_does_reach_a_result_under_other_settings() -> None:
    world = World()
    world.begin({"sft", "align"}, restarts=1, start_deadline=50, stage_deadline=None)
    world.look()
    world.an_attempt_succeeds(lingers=False)
    world.look()
    world.the_user_changes_the_settings_or_undoes_that(1)
    world.look()
    assert world.last is not None
    assert world.last.state is State.STOPPING
    world.an_attempt_ends(SAVED)
    world.look()
    assert (world.last.state, world.last.exit_code) == (State.BLOCKED, 73)

    world.the_user_changes_the_settings_or_undoes_that(0)
    world.look()

    assert [kind for kind, _ in world.all_running()] == ["align"]


def test_the_world_does_reach_the_cap_on_preemptions() -> None:
    world = World()
    world.begin({"sft"}, restarts=0, start_deadline=50, stage_deadline=None, preemptions=1)
    for _ in range(2):
        world.the_runner_is_stopped()
        world.look()
        world.an_attempt_is_preempted()
    world.look()

    assert world.last is not None
    assert (world.last.state, world.last.exit_code) == (State.FAILED, 1)
