"""Stops an operator dead at a point of a run's way, starts it again, and says what came of it."""

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from api_cluster import ApiCluster
from operator_process import OperatorProcess
from operator_rights import operator_kubeconfig
from played import Player
from running_operator import Moment, RunningOperator, Write
from swept_runs import Document, Outcome, View, differences, finish

MOMENTS: tuple[Moment, ...] = ("before", "after")


@dataclass(frozen=True)
class Calm:
    """A run that nobody disturbed."""

    outcome: Outcome
    writes: tuple[str, ...]
    """What the operator wrote, in order."""
    seconds: float
    """From its first write to its last one."""


@dataclass(frozen=True)
class Point:
    """A run whose operator was stopped dead once."""

    where: str
    """At which write or after which time; empty: the run was over before that."""
    lost: tuple[str, ...]
    """In what it differs from the undisturbed run."""
    seconds: float


class Stop:
    """A hook that stops its operator once, before or after the first write that is meant."""

    def __init__(self, moment: Moment, is_meant: Callable[[Write], bool]) -> None:
        self.moment, self._is_meant = moment, is_meant
        self.hit: Write | None = None

    def __call__(self, write: Write, moment: Moment) -> bool:
        if self.hit is None and moment == self.moment and self._is_meant(write):
            self.hit = write
            return True
        return False


class Alarm:
    """Kills once, so many seconds after a run was first seen with a status."""

    def __init__(self, seconds: float, kill: Callable[[], None]) -> None:
        self._seconds, self._kill = seconds, kill
        self._due: float | None = None
        self.where = ""

    def __call__(self, run: Document) -> None:
        now, status = time.monotonic(), run["status"]
        if status and self._due is None:
            self._due = now + self._seconds
        if self._due is not None and now >= self._due and not self.where:
            self._kill()
            stages = (f"{kind} {stage['state']}" for kind, stage in status["stages"].items())
            self.where = f"after {self._seconds:.2f} s: {', '.join(stages)}"


@dataclass(frozen=True)
class Theatre:
    """Where runs are swept: a cluster with PrismRuns, and who plays all their pods."""

    cluster: ApiCluster
    player: Player
    at_once: int = 3
    """Operators that work at the same time, each in a namespace of its own."""

    def calm(self, scenario: str) -> Calm:
        """A run that is not disturbed."""
        view = self._view(scenario)
        operator = self._operator(view)
        try:
            outcome = finish(view, self.player, operator, None)
            assert operator.is_alive, f"the operator ended by itself: {operator.failure!r}"
        finally:
            operator.kill()
        writes = tuple(_target(write) for write in operator.writes)
        seconds = operator.writes[-1].sent_at - operator.writes[0].sent_at
        return Calm(outcome, writes, seconds)

    def stopped_at(self, scenario: str, stop: Stop, calm: Calm) -> Point:
        """A run whose operator is stopped dead by a hook, in this process."""
        view, started = self._view(scenario), time.monotonic()
        operator = self._operator(view)
        operator.on_write = stop
        try:
            outcome = finish(view, self.player, operator, calm.outcome)
        finally:
            operator.kill()
        where = f"{stop.moment} {_target(stop.hit)}" if stop.hit else ""
        lost = differences(calm.outcome, outcome)
        if operator.failure:
            lost.append(f"the operator ended by itself: {operator.failure!r}")
        if lost:
            lost += self.cluster.deletions_in(view.namespace)
        return Point(where, tuple(lost), time.monotonic() - started)

    def killed_after(self, scenario: str, seconds: float, calm: Calm) -> Point:
        """A run whose operator, a process of its own, gets SIGKILL so long after it has first
        written."""
        view, started = self._view(scenario), time.monotonic()
        log = self.cluster.folder / f"operator-{view.namespace}.log"
        operator = OperatorProcess(self._rights(view), view.namespace, log)
        kill = Alarm(seconds, operator.kill)
        operator.start()
        try:
            outcome = finish(view, self.player, operator, calm.outcome, kill)
        finally:
            operator.close()
        lost = tuple(differences(calm.outcome, outcome))
        return Point(kill.where, lost, time.monotonic() - started)

    def _view(self, scenario: str) -> View:
        return View(self.cluster, self.cluster.new_namespace(), scenario)

    def _operator(self, view: View) -> RunningOperator:
        where = (self._rights(view), (view.namespace,))
        return RunningOperator(*where, progress_port=self.player.port)

    def _rights(self, view: View) -> Path:
        return operator_kubeconfig(self.cluster, view.namespace)

    def sweep(self, scenario: str, calm: Calm) -> Iterator[Point]:
        """Points before and after each write, in turn, until a run has no more; then before and
        after all creations and deletions of the undisturbed run that were missed so."""
        targets = {w for w in calm.writes if w != "POST events" and not w.endswith("/status")}
        missed = {f"{moment} {target}" for moment in MOMENTS for target in targets}
        indices = range(len(calm.writes))
        while indices:
            hits = 0
            for point in self.some(scenario, calm, indices):
                missed.discard(point.where)
                hits += bool(point.where)
                yield point
            is_over = hits < len(MOMENTS) * len(indices)
            indices = range(0) if is_over else range(indices.stop, indices.stop + 1)
        yield from self._all(
            scenario, calm, [stop_at(*where.split(" ", 1)) for where in sorted(missed)]
        )

    def some(self, scenario: str, calm: Calm, indices: Iterable[int]) -> Iterator[Point]:
        """Points before and after some writes."""
        return self._all(scenario, calm, [_at(m, i) for i in indices for m in MOMENTS])

    def kills(self, scenario: str, calm: Calm, kills: int, seed: int) -> Iterator[Point]:
        """Points at random moments, one in each of equal parts of the undisturbed run's time."""
        draw = random.Random(f"{seed}/{scenario}")
        part = calm.seconds / kills
        moments = [part * (number + draw.random()) for number in range(kills)]
        kill = partial(self.killed_after, scenario, calm=calm)
        with ThreadPoolExecutor(self.at_once) as pool:
            yield from pool.map(kill, moments)

    def _all(self, scenario: str, calm: Calm, stops: list[Stop]) -> Iterator[Point]:
        stopped = partial(self.stopped_at, scenario, calm=calm)
        with ThreadPoolExecutor(self.at_once) as pool:
            yield from pool.map(stopped, stops)


def _at(moment: Moment, index: int) -> Stop:
    return Stop(moment, lambda write: write.index == index)


def stop_at(moment: str, target: str) -> Stop:
    """Before or after the first write of a target: `POST configmaps/well-sft-a1`."""
    return Stop(cast(Moment, moment), lambda write: _target(write) == target)


def _target(write: Write) -> str:
    """What it writes, the same in all runs: `POST configmaps/well-sft-a1`, `POST events`."""
    target = write.path.partition("/namespaces/")[2].partition("/")[2]
    target = re.sub("-[0-9a-f]{8}-rollout", "-UID8-rollout", target)
    return f"{write.verb} {'events' if target.startswith('events/') else target}"
