"""Everything that works while an operator leads: informers, workers, poller, herald."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from prism_api.reporting import TRAINER_PORT
from prism_api.resources import Images
from prism_api.status import PrismRunStatus
from prism_operator.cluster.cache import Cache
from prism_operator.cluster.census import Census
from prism_operator.cluster.client import Client, Document
from prism_operator.cluster.errors import ClusterError
from prism_operator.cluster.herald import Herald
from prism_operator.cluster.informer import Informer, Source
from prism_operator.cluster.logs import run_context
from prism_operator.cluster.metrics import Metrics
from prism_operator.cluster.poller import Poller
from prism_operator.cluster.reconciler import Reconciler
from prism_operator.cluster.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    RUNS,
    SERVICES,
    Resource,
)
from prism_operator.cluster.runs import RunReader, RunRecord
from prism_operator.cluster.work_queue import WorkQueue

_log = logging.getLogger(__name__)

_WATCHED = {
    JOBS: False,
    PODS: False,
    DEPLOYMENTS: False,
    CONFIG_MAPS: True,
    SERVICES: True,
    NETWORK_POLICIES: True,
}
"""Kinds of children, and whether their metadata is all that is looked at."""

_SIGN_OF_LIFE = ""
"""A key of no run: it goes through the queue and a worker, and shows that both move."""
BEAT_SECONDS = 5.0
_DEFECT_SECONDS = 30.0


@dataclass(frozen=True)
class Pace:
    """How often and how much at once."""

    poll_seconds: float = 15.0
    resync_seconds: float = 300.0
    workers: int = 16
    patience_seconds: float = 10.0
    """Pause before what was refused is tried again, and before a slow start is asked for its
    reason."""


@dataclass(frozen=True)
class Scope:
    """Which runs, and what they get if they do not say."""

    namespaces: tuple[str, ...]
    """None: all of the cluster."""
    images: Images
    progress_port: int = TRAINER_PORT


class Controller:
    """Keeps all runs of its scope going."""

    def __init__(
        self,
        client: Client,
        scope: Scope,
        pace: Pace,
        metrics: Metrics,
        herald: Herald,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._pace, self._metrics, self._herald, self._beat = pace, metrics, herald, beat
        self._queue = WorkQueue()
        cache = Cache()
        self._poller = Poller(pace.poll_seconds, self._queue.add, scope.progress_port)
        reader = RunReader(scope.images)
        self._reconciler = Reconciler(
            client, cache, reader, self._poller, self._stored, pace.patience_seconds, self._failed
        )
        namespaces, resync = scope.namespaces, pace.resync_seconds
        self._census = Census(client, namespaces, self, lambda: self._reconciler.records, resync)
        self._informers = [
            Informer(
                client,
                Source(resource, namespace, metadata_only),
                cache,
                self._queue.add,
                metrics.saw_event,
                self._restarted,
                pace.resync_seconds,
            )
            for resource, metadata_only in _WATCHED.items()
            for namespace in scope.namespaces or (None,)
        ]

    def run_changed(self, document: Document) -> None:
        """An event of a watch: a PrismRun is there, or is another one now."""
        self._metrics.saw_event(RUNS.plural)
        self.run_listed(document)

    def run_deleted(self, document: Document) -> None:
        """An event of a watch: a PrismRun is gone."""
        self._metrics.saw_event(RUNS.plural)
        self.run_missed(document["metadata"]["uid"])

    def run_listed(self, document: Document) -> None:
        """A PrismRun as it is."""
        uid = self._reconciler.take(document)
        if uid is not None:
            self._metrics.saw_run(uid, self._reconciler.records[uid].status.state)
            self._queue.add(uid)

    def run_missed(self, uid: str) -> None:
        """A PrismRun that is not there any more."""
        self._reconciler.forget(uid)
        self._queue.forget(uid)
        self._metrics.saw_run(uid, None)

    async def runs_are_served(self) -> None:
        """Return once the API server knows PrismRuns."""
        while True:
            try:
                await self._client.get(f"/apis/{RUNS.group}/{RUNS.version}")
                return
            except ClusterError as error:
                _log.error("%s cannot be watched: %s; are its CRDs installed?", RUNS, error)
            await asyncio.sleep(BEAT_SECONDS)

    async def run(self) -> None:
        """Until cancelled. Nothing is decided before everything that is there was listed."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run())
            tasks.create_task(self._keep_beating())
            await asyncio.gather(*(informer.synced.wait() for informer in self._informers))
            tasks.create_task(self._census.run())
            tasks.create_task(self._herald.run())
            tasks.create_task(self._poller.run())
            tasks.create_task(self._queue.keep_time())
            for _ in range(self._pace.workers):
                tasks.create_task(self._work())

    async def _keep_beating(self) -> None:
        while True:
            self._queue.add(_SIGN_OF_LIFE)
            self._metrics.queue_length.set(len(self._queue))
            await asyncio.sleep(BEAT_SECONDS)

    async def _work(self) -> None:
        while True:
            uid = await self._queue.get()
            pause = None
            try:
                if uid != _SIGN_OF_LIFE:
                    pause = await self._reconcile(uid)
                self._beat()
            finally:
                self._queue.done(uid)
            if pause is not None:
                self._queue.add_after(uid, pause)

    async def _reconcile(self, uid: str) -> float | None:
        record = self._reconciler.records.get(uid)
        if record is None:
            return await self._reconciler.reconcile(uid)
        started = self._metrics.clock()
        with run_context(*record.place):
            try:
                return await self._reconciler.reconcile(uid)
            except Exception as error:
                # A defect in one run must not stop the others, nor be tried in a hot loop.
                _log.exception("the reconcile failed; it is tried again")
                self._failed(error)
                return _DEFECT_SECONDS
            finally:
                self._metrics.reconcile_duration.observe(self._metrics.clock() - started)

    def _stored(self, record: RunRecord, before: PrismRunStatus) -> None:
        self._metrics.saw_status(before, record.status)
        self._metrics.saw_run(record.uid, record.status.state)
        self._herald.tell(record, before)

    def _failed(self, error: Exception) -> None:
        self._metrics.reconcile_errors[type(error).__name__].inc()

    def _restarted(self, resource: Resource, reason: str) -> None:
        self._metrics.watch_restarts[resource.plural, reason].inc()
