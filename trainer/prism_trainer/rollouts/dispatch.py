"""Spreads jobs over servers that may fail at any time; knows nothing of HTTP."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from prism_trainer.rollouts.faults import Budget, Fault, check_attempts, pause_after

J = TypeVar("J")
R = TypeVar("R")
J_contra = TypeVar("J_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_log = logging.getLogger(__name__)


class Worker(Protocol[J_contra, R_co]):
    """A server that does jobs; every method raises Fault when it fails."""

    async def admit(self) -> None:
        """Make the server fit for use, or find that it is."""

    async def run(self, job: J_contra) -> R_co:
        """Do one job."""

    async def watch(self, on_progress: Callable[[], None]) -> None:
        """While jobs run: report progress; never returns."""


async def dispatch(
    workers: Sequence[Worker[J, R]], jobs: Sequence[J], concurrency: int, budget: Budget
) -> list[R]:
    """Results of all jobs, in their order; each worker does at most `concurrency` at a time.

    A worker that faults loses all its jobs to the others and is admitted again. Raises RolloutError
    when a job or all workers together have used up the budget.
    """
    if not jobs:
        return []
    return await _Dispatch(workers, jobs, concurrency, budget).run()


class _Dispatch(Generic[J, R]):
    def __init__(
        self, workers: Sequence[Worker[J, R]], jobs: Sequence[J], concurrency: int, budget: Budget
    ) -> None:
        self._workers, self._jobs = workers, jobs
        # The server that is ready first leaves the others their share.
        share = math.ceil(len(jobs) / len(workers))
        self._concurrency, self._budget = min(concurrency, share), budget
        self._pending: asyncio.Queue[int] = asyncio.Queue()
        for number in range(len(jobs)):
            self._pending.put_nowait(number)
        self._attempts = [0] * len(jobs)
        self._results: dict[int, R] = {}
        self._done = asyncio.Event()
        self._last_fault: Fault | None = None
        self._outage_since: float | None = None

    async def run(self) -> list[R]:
        serving = [self._serve(worker) for worker in self._workers]
        await _first_error_of(*serving, until=self._done.wait())
        return [self._results[number] for number in range(len(self._jobs))]

    async def _serve(self, worker: Worker[J, R]) -> None:
        """Admit, work until something fails, and again."""
        failures = 0
        while True:
            done_before = len(self._results)
            try:
                await worker.admit()
                self._sign_of_life()
                lanes = [self._lane(worker) for _ in range(self._concurrency)]
                await _first_error_of(worker.watch(self._sign_of_life), *lanes)
            except Fault as fault:
                self._last_fault = fault
                failures = 1 if len(self._results) > done_before else failures + 1
                pause = pause_after(fault, failures, self._outage(), self._budget)
                _log.warning("%s; trying again in %.1f s", fault, pause)
                await asyncio.sleep(pause)

    async def _lane(self, worker: Worker[J, R]) -> None:
        """Do one job after the other; a job that is not done goes back to the others."""
        while True:
            number = await self._pending.get()
            if self._last_fault is not None:
                check_attempts(self._last_fault, self._attempts[number], self._budget)
            self._attempts[number] += 1
            try:
                self._results[number] = await worker.run(self._jobs[number])
            finally:
                if number not in self._results:
                    self._pending.put_nowait(number)
            self._sign_of_life()
            if len(self._results) == len(self._jobs):
                self._done.set()

    def _sign_of_life(self) -> None:
        self._outage_since = None

    def _outage(self) -> float:
        """Seconds since the first fault that no sign of life has followed."""
        now = time.monotonic()
        if self._outage_since is None:
            self._outage_since = now
        return now - self._outage_since


async def _first_error_of(*work: Awaitable[None], until: Awaitable[object] | None = None) -> None:
    """Run all at once until one fails or `until` is done; the rest is cancelled.

    Unlike a TaskGroup it raises the error itself, which callers tell apart by its type.
    """
    tasks = [asyncio.ensure_future(part) for part in work]
    if until is not None:
        tasks.append(asyncio.ensure_future(until))  # type: ignore[arg-type]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    errors = [error for task in done if (error := task.exception()) is not None]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, Fault))  # what ends all goes first
