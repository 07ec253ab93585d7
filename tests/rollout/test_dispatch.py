"""Jobs on servers that fail: every job is done exactly once, or an error says why not."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_api.errors import RolloutError
from prism_trainer.rollouts.dispatch import dispatch
from prism_trainer.rollouts.faults import Budget, Fault, Kind

BUDGET = Budget(
    attempts=4, outage_seconds=0.3, first_pause_seconds=0.001, longest_pause_seconds=0.002
)


def fault(name: str, operation: str = "generate") -> Fault:
    return Fault(Kind.UNREACHABLE, name, operation, "gone")


@dataclass
class Script:
    """A server that does jobs at once, unless `fails` says otherwise."""

    name: str
    fails: Callable[[int], bool] = lambda _: False
    """For the number of a call of `run`, counted from 0."""
    admits: Callable[[int], bool] = lambda _: True
    """For the number of a call of `admit`."""
    progresses: bool = True
    admissions: int = 0
    calls: list[int] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def admit(self) -> None:
        self.admissions += 1
        if not self.admits(self.admissions - 1):
            raise fault(self.name, "update")

    async def run(self, job: int) -> tuple[str, int]:
        number = len(self.calls)
        self.calls.append(job)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await asyncio.sleep(0.001)
        finally:
            self.running -= 1
        if self.fails(number):
            raise fault(self.name)
        return self.name, job

    async def watch(self, on_progress: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(0.01)
            if not self.progresses:
                raise Fault(Kind.STALLED, self.name, "generate", "no token")
            on_progress()


def run(
    servers: Sequence[Script], jobs: int, concurrency: int = 4, budget: Budget = BUDGET
) -> list[tuple[str, int]]:
    async def bounded() -> list[tuple[str, int]]:
        async with asyncio.timeout(20):
            return await dispatch(servers, range(jobs), concurrency, budget)

    return asyncio.run(bounded())


def jobs_of(results: list[tuple[str, int]]) -> list[int]:
    return [job for _, job in results]


def test_results_come_in_the_order_of_the_jobs_from_all_servers() -> None:
    results = run([Script("a"), Script("b"), Script("c")], 60)
    assert jobs_of(results) == list(range(60))
    shares = Counter(name for name, _ in results)
    assert set(shares) == {"a", "b", "c"}
    assert min(shares.values()) >= 10


def test_a_server_that_is_ready_first_leaves_the_others_their_share() -> None:
    class Late(Script):
        async def admit(self) -> None:
            await asyncio.sleep(0.02)

    class Slow(Script):
        async def run(self, job: int) -> tuple[str, int]:
            await asyncio.sleep(0.1)
            return self.name, job

    results = run([Slow("first"), Late("second")], 8, concurrency=64)
    assert Counter(name for name, _ in results)["second"] == 4


def test_no_jobs_need_no_server() -> None:
    server = Script("a", admits=lambda _: False)
    assert run([server], 0) == []
    assert server.admissions == 0


@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_a_server_never_has_more_jobs_than_allowed(concurrency: int) -> None:
    server = Script("a")
    run([server], 40, concurrency)
    assert server.most_running == concurrency


@given(
    st.integers(1, 25),
    st.lists(st.sets(st.integers(0, 30), max_size=6), min_size=1, max_size=3),
    st.integers(1, 5),
)
def test_whatever_fails_now_and_then_every_job_has_one_result(
    jobs: int, failing_calls: list[set[int]], concurrency: int
) -> None:
    servers = [Script(str(i), calls.__contains__) for i, calls in enumerate(failing_calls)]
    plenty = Budget(100, 10, 0.0001, 0.0002)
    assert jobs_of(run(servers, jobs, concurrency, plenty)) == list(range(jobs))


def test_jobs_of_a_dead_server_are_done_by_the_others() -> None:
    dead = Script("dead", fails=lambda _: True, admits=lambda number: number == 0)
    results = run([dead, Script("alive")], 30)
    assert jobs_of(results) == list(range(30))
    assert {name for name, _ in results} == {"alive"}
    assert dead.calls


def test_a_server_is_admitted_again_after_every_fault() -> None:
    server = Script("a", fails=lambda number: number in (3, 9))
    run([server], 20, concurrency=1)
    assert server.admissions == 3
    assert len(server.calls) == 22


def test_a_dead_server_is_an_error_soon_and_says_which() -> None:
    with pytest.raises(RolloutError, match=r"a: update: gone \(no rollout server for"):
        run([Script("a", admits=lambda _: False)], 3)


def test_a_server_that_is_alive_does_not_let_a_dead_one_end_the_work() -> None:
    dead = Script("dead", admits=lambda _: False)
    slow = Script("slow")
    results = run([dead, slow], 400, concurrency=1)
    assert len(results) == 400
    assert dead.admissions > 100, "it was tried for longer than the outage that is forgiven"


def test_a_job_that_no_server_can_do_is_given_up() -> None:
    servers = [Script("a", fails=lambda _: True), Script("b", fails=lambda _: True)]
    with pytest.raises(RolloutError, match="given up after 4 attempts"):
        run(servers, 1)


def test_a_server_without_progress_loses_its_jobs() -> None:
    class Stuck(Script):
        async def run(self, job: int) -> tuple[str, int]:
            self.calls.append(job)
            await asyncio.sleep(3600)
            raise AssertionError

    stuck = Stuck("stuck", progresses=False, admits=lambda number: number == 0)
    assert jobs_of(run([stuck, Script("b")], 10)) == list(range(10))
    assert stuck.calls


def test_an_error_that_no_other_try_can_mend_ends_the_work_at_once() -> None:
    class Wrong(Script):
        async def run(self, job: int) -> tuple[str, int]:
            raise ValueError("other tokens")

    with pytest.raises(ValueError, match="other tokens"):
        run([Wrong("a"), Script("b")], 50)
