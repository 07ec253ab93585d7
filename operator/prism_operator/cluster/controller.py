"""Everything that runs while an operator leads: informers, workers, the poller."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from prism_api.resources import Images
from prism_api.status import PrismRunStatus
from prism_operator.cluster.cache import Cache
from prism_operator.cluster.client import Client, Document
from prism_operator.cluster.informer import Informer, Source
from prism_operator.cluster.poller import Poller
from prism_operator.cluster.reconciler import Reconciler
from prism_operator.cluster.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
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


@dataclass(frozen=True)
class Pace:
    """How often and how much at once."""

    poll_seconds: float = 15.0
    resync_seconds: float = 300.0
    workers: int = 16


class Controller:
    """Keeps all runs of some namespaces going (none named: of all)."""

    def __init__(
        self,
        client: Client,
        namespaces: tuple[str, ...],
        images: Images,
        pace: Pace,
        on_stored: Callable[[RunRecord, PrismRunStatus], None],
        on_reconciled: Callable[[float], None],
        on_restart: Callable[[Resource, str], None],
        progress_port: int,
    ) -> None:
        self.queue = WorkQueue()
        self._pace, self._on_reconciled = pace, on_reconciled
        cache = Cache()
        self._poller = Poller(pace.poll_seconds, self.queue.add, progress_port)
        self.reconciler = Reconciler(client, cache, RunReader(images), self._poller, on_stored)
        self._informers = [
            Informer(
                client,
                Source(resource, namespace, metadata_only),
                cache,
                self.queue.add,
                on_restart,
                pace.resync_seconds,
            )
            for resource, metadata_only in _WATCHED.items()
            for namespace in namespaces or (None,)
        ]
        self.last_beat = time.monotonic()
        """When the workers were last seen to move; `beat` keeps it fresh where nothing happens."""

    def run_changed(self, document: Document) -> None:
        """A PrismRun is there, or is another one now."""
        uid = self.reconciler.take(document)
        if uid is not None:
            self.queue.add(uid)

    def run_deleted(self, document: Document) -> None:
        """A PrismRun is gone."""
        uid = document["metadata"]["uid"]
        self.reconciler.forget(uid)
        self.queue.forget(uid)

    async def run(self) -> None:
        """Until cancelled. Nothing is decided before everything that is there was listed."""
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers:
                tasks.create_task(informer.run())
            await asyncio.gather(*(informer.synced.wait() for informer in self._informers))
            tasks.create_task(self._poller.run())
            tasks.create_task(self.queue.keep_time())
            for _ in range(self._pace.workers):
                tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            uid = await self.queue.get()
            started = time.perf_counter()
            try:
                pause = await self.reconciler.reconcile(uid)
            except Exception:
                # A defect in one run must not stop the others, nor be tried in a hot loop.
                _log.exception("reconcile of run %s failed", uid)
                pause = 30.0
            finally:
                self.queue.done(uid)
            self.last_beat = time.monotonic()
            self._on_reconciled(time.perf_counter() - started)
            if pause is not None:
                self.queue.add_after(uid, pause) if pause > 0 else self.queue.add(uid)
