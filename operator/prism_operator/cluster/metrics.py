"""What the operator measures of itself and of its runs; docs/metrics.md lists it.

Counters begin at 0 when a replica becomes the leader, as Prometheus expects.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
)
from prometheus_client.metrics import MetricWrapperBase

from prism_api.names import STAGE_ORDER
from prism_api.status import PrismRunStatus, StageStatus, State

_DISTRIBUTION = "prism-post-training"
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RECONCILE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_HOUR = 3600.0
_STAGE_BUCKETS = tuple(_HOUR * h for h in (1 / 60, 1 / 6, 0.5, 1, 2, 4, 8, 16, 24, 48, 96, 168))
"""A minute to a week."""

M = TypeVar("M", bound=MetricWrapperBase)


class Family(Generic[M], dict[str | tuple[str, ...], M]):
    """A metric by its labels, in their order: `requests["get", "pods", "200"].inc()`.

    prometheus_client looks a child up under a lock and builds its key anew each time; this does so
    once.
    """

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: str | tuple[str, ...]) -> M:
        values = (labels,) if isinstance(labels, str) else labels
        child = self[labels] = self._metric.labels(*values)
        return child


@dataclass(frozen=True)
class Metrics:
    """Every metric of the operator, ready to be counted up."""

    reconcile_duration: Histogram
    reconcile_errors: Family[Counter]
    """By reason."""
    stage_duration: Family[Histogram]
    """By stage."""
    restarts: Family[Counter]
    """By stage, cause."""
    gpu_seconds: Family[Counter]
    """By kind (allocated, productive), stage."""
    api_requests: Family[Counter]
    """By verb, resource, code."""
    api_request_duration: Family[Histogram]
    """By verb."""
    watch_events: Family[Counter]
    """By resource."""
    watch_restarts: Family[Counter]
    """By resource, reason."""
    queue_length: Gauge
    leader: Gauge
    clock: Callable[[], float]
    _runs: Family[Gauge]
    _states: dict[str, State] = field(default_factory=dict)
    _last_event_at: list[float] = field(default_factory=list)

    def saw_event(self, resource: str) -> None:
        """An event of a watch arrived."""
        self._last_event_at[0] = self.clock()
        self.watch_events[resource].inc()

    def answered(self, verb: str, resource: str, code: str, seconds: float) -> None:
        """The API server answered with an HTTP status; `code` is `error` if it did not answer."""
        self.api_requests[verb, resource, code].inc()
        self.api_request_duration[verb].observe(seconds)

    def saw_run(self, uid: str, state: State | None) -> None:
        """Where a run stands now; absent if it is gone. Saying so twice counts once."""
        before = self._states.pop(uid, None)
        if state is not None:
            self._states[uid] = state
        if before is not state:
            if before is not None:
                self._runs[before].dec()
            if state is not None:
                self._runs[state].inc()

    def saw_status(self, before: PrismRunStatus, after: PrismRunStatus) -> None:
        """Count what a status write says beyond the one before: restarts, GPU time, stages done.

        To be called once per write that succeeded.
        """
        for kind in STAGE_ORDER:
            now = after.stages.get(kind)
            if now is not None:
                self._count_stage(kind, before.stages.get(kind, StageStatus()), now)

    def _count_stage(self, stage: str, before: StageStatus, after: StageStatus) -> None:
        for cause, count in restarts_between(before, after).items():
            self.restarts[stage, cause].inc(count)
        for kind in ("allocated", "productive"):
            seconds = getattr(after.gpu_seconds, kind) - getattr(before.gpu_seconds, kind)
            self.gpu_seconds[kind, stage].inc(max(0.0, seconds))
        if after.result and not before.result and after.started_at and after.ended_at:
            seconds = (after.ended_at - after.started_at).total_seconds()
            self.stage_duration[stage].observe(seconds)


def restarts_between(before: StageStatus, after: StageStatus) -> Tally[str]:
    """New attempts after the first, by why: `fault`, `preemption`, or `interruption` (a stage that
    was suspended, or stopped for another reason that is no fault)."""
    started = _number(after) - max(1, _number(before))
    faults = after.restarts.faults - before.restarts.faults
    preemptions = after.restarts.preemptions - before.restarts.preemptions
    causes = {"fault": faults, "preemption": preemptions}
    return +Tally({**causes, "interruption": started - faults - preemptions})


def _number(stage: StageStatus) -> int:
    return stage.attempt.number if stage.attempt else 0


def setup_metrics(
    registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
) -> Metrics:
    """All metrics, registered; `clock` is monotonic."""
    _describe_process(registry)
    last_event_at = [clock()]
    _gauge(registry, "last_event_age_seconds").set_function(lambda: clock() - last_event_at[0])
    runs = Family(_gauge(registry, "runs", "state"))
    for state in State:
        runs[state].set(0)
    durations = partial(_histogram, registry)
    return Metrics(
        reconcile_duration=durations("reconcile_duration_seconds", _RECONCILE_BUCKETS),
        reconcile_errors=_counters(registry, "reconcile_errors", "reason"),
        stage_duration=Family(durations("stage_duration_seconds", _STAGE_BUCKETS, "stage")),
        restarts=_counters(registry, "restarts", "stage", "cause"),
        gpu_seconds=_counters(registry, "gpu_seconds", "kind", "stage"),
        api_requests=_counters(registry, "api_requests", "verb", "resource", "code"),
        api_request_duration=Family(
            durations("api_request_duration_seconds", _REQUEST_BUCKETS, "verb")
        ),
        watch_events=_counters(registry, "watch_events", "resource"),
        watch_restarts=_counters(registry, "watch_restarts", "resource", "reason"),
        queue_length=_gauge(registry, "queue_length"),
        leader=_gauge(registry, "leader"),
        clock=clock,
        _runs=runs,
        _last_event_at=last_event_at,
    )


_MEANINGS = {
    "api_request_duration_seconds": "Duration of requests to the API server, watches left out.",
    "api_requests": "Requests to the API server.",
    "build": "Version of the operator; always 1.",
    "gpu_seconds": "GPU time of runs: held (allocated), and of this spent on steps that count"
    " (productive).",
    "last_event_age_seconds": "Time since the last event of any watch, or since the start.",
    "leader": "1 if this replica holds the Lease, else 0.",
    "queue_length": "Runs that wait for their reconcile.",
    "reconcile_duration_seconds": "Duration of one reconcile of one run, waiting for the API server"
    " included.",
    "reconcile_errors": "Reconciles that failed and are repeated.",
    "restarts": "Attempts after a stage's first one.",
    "runs": "PrismRuns by state.",
    "stage_duration_seconds": "Time from the first attempt of a stage to its result; only stages"
    " that are done.",
    "watch_events": "Events of watches, bookmarks left out.",
    "watch_restarts": "Watches that ended and were begun anew.",
}


def _counters(registry: CollectorRegistry, name: str, *labels: str) -> Family[Counter]:
    return Family(Counter(f"prism_{name}", _MEANINGS[name], labels, registry=registry))


def _gauge(registry: CollectorRegistry, name: str, *labels: str) -> Gauge:
    return Gauge(f"prism_{name}", _MEANINGS[name], labels, registry=registry)


def _histogram(
    registry: CollectorRegistry, name: str, buckets: Sequence[float], *labels: str
) -> Histogram:
    meaning = _MEANINGS[name]
    return Histogram(f"prism_{name}", meaning, labels, buckets=buckets, registry=registry)


def _describe_process(registry: CollectorRegistry) -> None:
    Info("prism_build", _MEANINGS["build"], registry=registry).info({"version": _version()})
    ProcessCollector(registry=registry)


def _version() -> str:
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
