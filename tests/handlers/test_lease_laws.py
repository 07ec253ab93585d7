"""Never two leaders: whatever is late, lost, stalled or restarted, whosever clock is wrong.

The machine plays the API server, the network and the processes: a request lands at any later time
or never, its answer comes at any later time or never, and a process sleeps for as long as it likes
between any two steps.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from lease_store import LeaseStore
from prism_operator.cluster.errors import ClusterError
from prism_operator.cluster.lease import (
    Acquire,
    LeaseTimes,
    Lost,
    Renew,
    Sighting,
    Tenure,
    acquired,
    decide_lease,
    holder_of,
    released,
    renewed,
    sight,
    term_of,
)

NAMES = ("a", "b", "c")
NAME = st.sampled_from(NAMES)
SECONDS = st.sampled_from([0.1, 1.0, 2.0, 5.0, 9.0, 11.0, 16.0])


@dataclass(eq=False)
class Request:
    """A write on its way."""

    document: Mapping[str, Any]
    is_new: bool
    sent_at: float
    answer: dict[str, Any] | None = None
    is_answered: bool = False


@dataclass
class Process:
    """One candidate with a clock of its own."""

    name: str
    rate: float
    offset: float
    seen: Sighting | None = None
    tenure: Tenure | None = None
    waits_for: Request | None = None
    was_read: tuple[dict[str, Any] | None] | None = None

    def now(self, true_time: float) -> float:
        """What its clock shows."""
        return self.offset + self.rate * true_time

    def holds(self, true_time: float, times: LeaseTimes) -> bool:
        """As Elector.holds."""
        deadline = times.renew_deadline_seconds
        return self.tenure is not None and self.now(true_time) < self.tenure.sent_at + deadline


class World(RuleBasedStateMachine):
    """Three candidates for one Lease."""

    times = LeaseTimes()

    @initialize(
        rates=st.lists(st.floats(0.9, 1.2), min_size=3, max_size=3),
        offsets=st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
    )
    def begin(self, rates: list[float], offsets: list[float]) -> None:
        self.true_time, self.store, self.was_deleted = 0.0, LeaseStore(), False
        self.flying: list[Request] = []
        columns = zip(NAMES, rates, offsets, strict=True)
        self.processes = {name: Process(name, rate, offset) for name, rate, offset in columns}

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.true_time += seconds

    @rule(name=NAME)
    def looks(self, name: str) -> None:
        self.processes[name].was_read = (self.store.lease,)

    @rule(name=NAME)
    def sees_what_it_looked_at(self, name: str) -> None:
        process = self.processes[name]
        if process.was_read is not None:
            now = process.now(self.true_time)
            process.seen = sight(process.seen, process.was_read[0], now)
            process.was_read = None

    @rule(name=NAME)
    def looks_and_decides(self, name: str) -> None:
        self.looks(name)
        self.sees_what_it_looked_at(name)
        self.decides(name)

    @rule(name=NAME)
    def decides(self, name: str) -> None:
        process = self.processes[name]
        if process.seen is None or process.waits_for is not None:
            return
        now = process.now(self.true_time)
        match decide_lease(process.seen, process.tenure, name, now, self.times):
            case Lost():
                self.restarts(name)
            case Acquire():
                lease, metadata = process.seen.lease, {"name": "prism-operator"}
                document = acquired(lease, metadata, name, datetime.now(UTC), self.times)
                self._send(process, document, now)
            case Renew():
                assert process.seen.lease is not None
                document = renewed(process.seen.lease, datetime.now(UTC), self.times)
                self._send(process, document, now)

    @rule(name=NAME)
    def is_quick(self, name: str) -> None:
        """Looks, decides, is answered: else few sequences would have a leader."""
        self.looks_and_decides(name)
        request = self.processes[name].waits_for
        if request is not None:
            self._land(request)
            self.is_answered(name)

    @rule(place=st.integers(0, 9))
    def a_request_lands(self, place: int) -> None:
        if self.flying:
            self._land(self.flying[place % len(self.flying)])

    @rule(name=NAME)
    def is_answered(self, name: str) -> None:
        process = self.processes[name]
        request = process.waits_for
        if request is not None and request.is_answered:
            process.waits_for = None
            if request.answer is not None and holder_of(request.answer):
                process.seen = Sighting(request.answer, process.now(self.true_time))
                process.tenure = Tenure(term_of(request.answer), request.sent_at)

    @rule(name=NAME)
    def waits_no_longer_for_an_answer(self, name: str) -> None:
        self.processes[name].waits_for = None

    @rule(name=NAME)
    def restarts(self, name: str) -> None:
        """Another process in the same pod, which knows nothing."""
        old = self.processes[name]
        knows_nothing = not self.was_deleted  # a Lease that was deleted by hand must have been seen
        seen = None if knows_nothing else old.seen
        self.processes[name] = Process(name, old.rate, old.offset, seen)

    @rule(name=NAME)
    def gives_back(self, name: str) -> None:
        process = self.processes[name]
        if process.tenure is not None and process.seen and process.seen.lease:
            process.tenure, lease = None, process.seen.lease
            self._send(process, released(lease), process.now(self.true_time))

    @rule()
    def somebody_deletes_it(self) -> None:
        """Nobody is about to create it: that is the one write that nothing fences, and the price of
        deleting a Lease by hand."""
        have_seen = all(p.seen is not None and p.seen.lease for p in self.processes.values())
        if have_seen and not any(request.is_new for request in self.flying):
            self.store.lease, self.was_deleted = None, True

    @invariant()
    def at_most_one_acts(self) -> None:
        acting = [p for p in self.processes.values() if p.holds(self.true_time, self.times)]
        assert len(acting) <= 1, [process.name for process in acting]
        for process in acting:
            if self.store.lease is not None and process.tenure is not None:
                written = (holder_of(self.store.lease), term_of(self.store.lease))
                assert written == (process.name, process.tenure.term)

    def _send(self, process: Process, document: Mapping[str, Any], now: float) -> None:
        is_new = "resourceVersion" not in document["metadata"]
        process.waits_for = Request(document, is_new, now)
        self.flying.append(process.waits_for)

    def _land(self, request: Request) -> None:
        if request not in self.flying:
            return
        self.flying.remove(request)
        write = self.store.create if request.is_new else self.store.replace
        request.is_answered = True
        try:
            request.answer = write(request.document)
        except ClusterError:
            request.answer = None


TestNeverTwoLeaders = World.TestCase
TestNeverTwoLeaders.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


class TooPatient(World):
    """A holder that acts for longer than others wait."""

    times = LeaseTimes(lease_seconds=10, renew_deadline_seconds=100)


class CountsFromTheAnswer(World):
    """A holder that counts from the answer to its renewal."""

    def is_answered(self, name: str) -> None:
        process = self.processes[name]
        if process.waits_for is not None:
            process.waits_for.sent_at = process.now(self.true_time)
        super().is_answered(name)


class NeverWaits(World):
    """A candidate that takes what it sees for old."""

    def sees_what_it_looked_at(self, name: str) -> None:
        super().sees_what_it_looked_at(name)
        seen = self.processes[name].seen
        if seen is not None:
            self.processes[name].seen = Sighting(seen.lease, seen.since - 60)


@pytest.mark.parametrize("wrong", [TooPatient, NeverWaits])
def test_the_machine_finds_two_leaders_where_the_algorithm_is_wrong(wrong: type[World]) -> None:
    many = settings(
        max_examples=1000,
        stateful_step_count=60,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(wrong, settings=many)


@pytest.mark.parametrize(("kind", "is_safe"), [(World, True), (CountsFromTheAnswer, False)])
def test_an_answer_that_comes_after_a_takeover_makes_nobody_a_leader(
    kind: type[World], is_safe: bool
) -> None:
    world = kind()
    world.begin(rates=[1.0, 1.0, 1.0], offsets=[0.0, 0.0, 0.0])
    world.looks_and_decides("a")
    world.a_request_lands(0)
    world.looks_and_decides("b")
    world.time_passes(16.0)
    world.is_answered("a")
    world.is_quick("b")
    with nullcontext() if is_safe else pytest.raises(AssertionError):
        world.at_most_one_acts()
    assert world.processes["b"].holds(world.true_time, world.times)
