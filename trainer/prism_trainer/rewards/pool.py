"""A bounded pool of worker processes that evaluate formulas, each with a deadline that holds.

Workers are programs of their own (never forks of a process that holds a GPU) and start when the
first formula comes. How one ends says whose fault it was: killed by the kernel after so much
processor time is the formula's; out of memory is too, if a fresh worker says the same; anything
else is the verifier's. So an outcome depends neither on the load nor on the number of workers. The
calling thread drives all workers; no signal handler is involved.
"""

import atexit
import os
import selectors
import threading
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

from prism_trainer.rewards.values import Evaluation, Failure
from prism_trainer.rewards.worker_process import (
    OUT_OF_MEMORY,
    TOO_SLOW,
    WorkerLimits,
    WorkerProcess,
)

_ATTEMPTS = 2
_FAILED_STARTS = 3
_FORMULAS_PER_WORKER = 10_000
"""Then it is replaced, so that nothing can pile up in it."""
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class _Task:
    formula: str
    attempt: int = 1


class EvaluatorPool:
    """Evaluates formulas side by side; threads may share it and then take turns."""

    def __init__(self, workers: int = 2, limits: WorkerLimits | None = None) -> None:
        self._size, self._limits = workers, limits or WorkerLimits()
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._idle: list[WorkerProcess] = []
        self._busy: dict[WorkerProcess, _Task] = {}
        self._todo: deque[_Task] = deque()
        self._failed_starts = 0
        self._known: dict[str, Evaluation] = {}

    def evaluate(self, formulas: Collection[str]) -> dict[str, Evaluation]:
        """What every formula is worth; returns when all are evaluated, raises for none of them."""
        with self._lock:
            results = {f: self._known[f] for f in formulas if f in self._known}
            self._todo.extend(_Task(f) for f in dict.fromkeys(formulas) if f not in results)
            self._failed_starts = 0
            try:
                while self._todo or self._busy:
                    results.update(self._assign())
                    results.update(self._collect())
            except BaseException:
                self._stop()  # what runs now must not answer the next call
                raise
            self._remember(results)
            return results

    def close(self) -> None:
        """End the workers; a later call starts new ones. A forked child leaves them alone."""
        if os.getpid() == self._owner:
            self._stop()

    def _stop(self) -> None:
        for worker in [*self._idle, *self._busy]:
            worker.end()
        self._idle.clear()
        self._busy.clear()
        self._todo.clear()

    def _assign(self) -> Iterator[tuple[str, Evaluation]]:
        while self._todo and len(self._busy) < self._size:
            task = self._todo.popleft()
            if self._failed_starts >= _FAILED_STARTS:
                yield task.formula, Failure.VERIFIER_FAILED
                continue
            try:
                fresh = task.attempt > 1 or not self._idle
                worker = WorkerProcess(self._limits) if fresh else self._idle.pop()
            except OSError:
                self._failed_starts += 1
                self._todo.appendleft(task)
                continue
            worker.send(task.formula)
            self._busy[worker] = task

    def _collect(self) -> Iterator[tuple[str, Evaluation]]:
        for worker in self._wait():
            task = self._busy[worker]
            try:
                values = worker.receive()
            except EOFError:
                del self._busy[worker]
                yield from self._explain(task, worker)
                continue
            if values is not None:
                del self._busy[worker]
                self._release(worker)
                yield task.formula, values

    def _wait(self) -> list[WorkerProcess]:
        """Workers that have replied or ended; one that hangs is killed and so ends."""
        with selectors.DefaultSelector() as selector:
            for worker in self._busy:
                selector.register(worker, selectors.EVENT_READ, worker)
            patience = min((worker.seconds_left() for worker in self._busy), default=0.0)
            ready = [key.data for key, _ in selector.select(max(patience, 0.0))]
        for worker in self._busy:
            if worker not in ready and worker.seconds_left() < 0:
                worker.kill()
        return ready

    def _explain(self, task: _Task, worker: WorkerProcess) -> Iterator[tuple[str, Evaluation]]:
        """Why a worker ended while it had a task: at once, or after another attempt."""
        status = worker.end()
        self._failed_starts = 0 if worker.is_ready else self._failed_starts + 1
        if status == TOO_SLOW:
            yield task.formula, Failure.TOO_COSTLY
        elif task.attempt < _ATTEMPTS:
            self._todo.appendleft(_Task(task.formula, task.attempt + 1))
        elif status == OUT_OF_MEMORY:
            yield task.formula, Failure.TOO_COSTLY
        else:
            yield task.formula, Failure.VERIFIER_FAILED

    def _release(self, worker: WorkerProcess) -> None:
        if worker.served < _FORMULAS_PER_WORKER:
            self._idle.append(worker)
        else:
            worker.end()

    def _remember(self, results: dict[str, Evaluation]) -> None:
        """A group of rollouts shares its truth, and its predictions repeat."""
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        lasting = ((f, e) for f, e in results.items() if e is not Failure.VERIFIER_FAILED)
        self._known.update(lasting)


def evaluate(formulas: Collection[str]) -> dict[str, Evaluation]:
    """What every formula is worth, by this process's own pool; it starts with the first formula."""
    return _pool_of(os.getpid()).evaluate(formulas) if formulas else {}


@cache
def _pool_of(process_id: int) -> EvaluatorPool:
    """A forked child gets a pool of its own."""
    pool = EvaluatorPool()
    atexit.register(pool.close)
    return pool
