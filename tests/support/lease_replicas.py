"""Processes that all want to lead, in virtual time, and what becomes of each of their requests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from lease_builders import NAME
from lease_store import LeaseStore
from prism_operator.cluster.errors import ClusterError, Forbidden, Throttled, Unavailable
from prism_operator.cluster.leadership import Elector, LeaseLost, lead

Act = Callable[[], dict[str, Any]]
Fate = Literal["answered", "lost", "unheard", "throttled", "forbidden"]


@dataclass(frozen=True)
class Delivery:
    """What happens to a request, and how long it takes there and back."""

    fate: Fate = "answered"
    there: float = 0.01
    back: float = 0.01


@dataclass
class Api:
    """The API server behind a network that does to each request what the script says."""

    store: LeaseStore = field(default_factory=LeaseStore)
    script: list[Delivery] = field(default_factory=list)
    requests: list[tuple[float, str, str]] = field(default_factory=list)
    cut_off: set[str] = field(default_factory=set)
    """Of these, nothing is heard any more."""


@dataclass(frozen=True)
class Line:
    """The API as one process reaches it."""

    api: Api
    name: str

    async def get(self, path: str) -> dict[str, Any]:
        """As LeaseApi."""
        assert path == NAME.path
        return await self._deliver("get", self.api.store.read)

    async def create(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """As LeaseApi."""
        assert path == NAME.collection
        return await self._deliver("create", lambda: self.api.store.create(manifest))

    async def replace(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """As LeaseApi."""
        assert path == NAME.path
        return await self._deliver("replace", lambda: self.api.store.replace(document))

    async def _deliver(self, verb: str, act: Act) -> dict[str, Any]:
        if self.name in self.api.cut_off:
            await asyncio.sleep(1e6)
        self.api.requests.append((now(), self.name, verb))
        delivery = self.api.script.pop(0) if self.api.script else Delivery()
        if delivery.fate == "throttled":
            raise Throttled(verb, 429, "too many requests", 3.0)
        if delivery.fate == "forbidden":
            raise Forbidden(verb, 403, "forbidden")
        if delivery.fate == "unheard":
            await asyncio.sleep(delivery.there)
            raise Unavailable(verb, 0, "connection reset")
        # Whoever waits no longer does not stop what is under way.
        answer = await asyncio.shield(asyncio.ensure_future(_land(delivery.there, act)))
        await asyncio.sleep(delivery.back)
        if delivery.fate == "lost":
            raise Unavailable(verb, 0, "connection reset")
        if isinstance(answer, ClusterError):
            raise answer
        return answer


async def _land(seconds: float, act: Act) -> dict[str, Any] | ClusterError:
    await asyncio.sleep(seconds)
    try:
        return act()
    except ClusterError as error:
        return error


def now() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


@dataclass
class Reign:
    """When somebody acted."""

    by: str
    begin: float
    end: float


class Replicas:
    """Processes that all want to lead; one that lost the Lease is started anew by its kubelet."""

    def __init__(self, api: Api, names: str) -> None:
        self.api = api
        self.reigns: list[Reign] = []
        self.beats: dict[str, list[float]] = {name: [] for name in names}
        self._tasks = {name: asyncio.create_task(self._live(name)) for name in names}

    async def _live(self, name: str) -> None:
        beats = self.beats[name]
        while True:
            elector = Elector(
                Line(self.api, name), NAME, name, beat=lambda: beats.append(now()), clock=now
            )
            with suppress(LeaseLost):
                await lead(elector, partial(self._reign, name, elector))
            await asyncio.sleep(1.0)

    async def _reign(self, name: str, elector: Elector) -> None:
        self.reigns.append(reign := Reign(name, now(), now()))
        while elector.holds:
            reign.end = now()
            await asyncio.sleep(0.1)
        await asyncio.sleep(1e6)

    @property
    def leader(self) -> str | None:
        """Who acts now."""
        acting = {reign.by for reign in self.reigns if reign.end > now() - 0.15}
        assert len(acting) <= 1
        return next(iter(acting), None)

    def crash(self, name: str) -> None:
        """Its process is gone and nothing was said to anybody."""
        self.api.cut_off.add(name)
        self._tasks[name].cancel()

    async def stop(self, *names: str) -> None:
        """Ask them to end (SIGTERM), and wait until they have."""
        for name in names:
            self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name] for name in names])


@asynccontextmanager
async def replicas_of(api: Api, names: str = "ab") -> AsyncIterator[Replicas]:
    """They live for as long as the block runs."""
    replicas = Replicas(api, names)
    try:
        yield replicas
    finally:
        await replicas.stop(*names)
