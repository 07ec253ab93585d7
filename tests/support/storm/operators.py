"""Operators that are disturbed: each in a thread of its own, started again whenever it ends."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import kopf
from prometheus_client import CollectorRegistry

from played import from_kubeconfig
from prism_api.resources import Images
from prism_operator.cluster.client import Client
from prism_operator.cluster.connection import Connection
from prism_operator.cluster.controller import Controller, Pace, Scope
from prism_operator.cluster.herald import Herald
from prism_operator.cluster.leadership import Elector, LeaseLost, LeaseName, lead
from prism_operator.cluster.lease import LeaseTimes
from prism_operator.cluster.metrics import setup_metrics
from prism_operator.operate import run_controller

_log = logging.getLogger(__name__)

IMAGES = Images(trainer="registry.example/trainer:1", rollout="registry.example/rollout:1")
PACE = Pace(poll_seconds=0.5, resync_seconds=5.0, workers=8)
LEASE_TIMES = LeaseTimes(lease_seconds=3.0, renew_deadline_seconds=2.0, renew_seconds=0.4)
_AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class Place:
    """Where an operator works."""

    kubeconfig: Path
    namespace: str
    progress_port: int


class Replica:
    """`with Replica(...)`: works, or waits for its Lease, from the start of the block to its end.

    What a process would be ended by (the Lease lost, kopf giving up) ends a life of it; the next
    one remembers nothing.
    """

    def __init__(self, place: Place, identity: str, *, has_lease: bool) -> None:
        self.identity = identity
        self.lives = 0
        """Times that it was started."""
        self.leads = False
        """Whether it works now."""
        self.terms = 0
        """Times that it began to work."""
        url, credentials = from_kubeconfig(place.kubeconfig)
        self._login = kopf.ConnectionInfo(server=url, token=credentials.token)
        self._place, self._has_lease = place, has_lease
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._live, name=identity, daemon=True)
        self._end: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._end()
        self._thread.join()

    def _live(self) -> None:
        while not self._stopped.is_set():
            self.lives += 1
            try:
                asyncio.run(self._life())
            except LeaseLost as error:
                _log.info("%s: %s", self.identity, error)
            except asyncio.CancelledError:
                continue
            except Exception:
                _log.exception("%s ended by itself", self.identity)
            self._stopped.wait(_AGAIN_SECONDS)

    async def _life(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._end = lambda: loop.call_soon_threadsafe(task.cancel)
        client = Client(Connection.of(self._login))
        name = LeaseName(self._place.namespace, "prism-operator")
        # Of one life only, as the name of a pod.
        identity = f"{self.identity}-{time.monotonic_ns()}"
        elector = Elector(client, name, identity, LEASE_TIMES)
        try:
            if self._has_lease:
                await lead(elector, lambda: self._work(lambda: elector.holds))
            else:
                await self._work(lambda: True)
        finally:
            self._end = lambda: None
            await client.close()

    async def _work(self, may_write: Callable[[], bool]) -> None:
        client = Client(Connection.of(self._login), may_write=may_write)
        scope = Scope((self._place.namespace,), IMAGES, self._place.progress_port)
        metrics, herald = setup_metrics(CollectorRegistry()), Herald(client, self.identity)
        controller = Controller(client, scope, PACE, metrics, herald)
        self.terms, self.leads = self.terms + 1, True
        try:
            namespaces, resync = scope.namespaces, PACE.resync_seconds
            await run_controller(controller, namespaces, resync, lambda: self._login)
        finally:
            self.leads = False
            await client.close()
