"""Leader election on the API server: the thin edge around `lease`."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, Protocol

from prism_api.errors import PrismError
from prism_operator.cluster.errors import ClusterError, Conflict, NotFound, Throttled
from prism_operator.cluster.lease import (
    Acquire,
    LeaseTimes,
    Lost,
    Renew,
    Sighting,
    Tenure,
    Wait,
    acquired,
    decide_lease,
    holder_of,
    released,
    renewed,
    sight,
    term_of,
)

_log = logging.getLogger(__name__)


class LeaseLost(PrismError):
    """This process is no longer the leader: it must end without another write."""


class LeaseApi(Protocol):
    """What is asked of the API server."""

    async def get(self, path: str) -> dict[str, Any]:
        """The object; raises NotFound."""

    async def create(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The object as created in a collection; raises AlreadyExists."""

    async def replace(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """The object as written; raises Conflict if its resourceVersion is another one."""


@dataclass(frozen=True)
class LeaseName:
    """Which Lease."""

    namespace: str
    name: str

    @property
    def collection(self) -> str:
        """Path of its namespace's Leases."""
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"

    @property
    def path(self) -> str:
        """Its own path."""
        return f"{self.collection}/{self.name}"


class Elector:
    """One candidate. `acquire`, then `keep` for as long as it acts, then `release`."""

    def __init__(
        self,
        api: LeaseApi,
        lease: LeaseName,
        identity: str,
        times: LeaseTimes = LeaseTimes(),  # noqa: B008 (frozen)
        *,
        beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`identity` is of one living process only.

        `beat` is called for every look or renewal, whatever comes of it: with any API server at
        least every 1.5 times `renew_deadline_seconds`.
        """
        self._api, self._lease, self._identity, self._times = api, lease, identity, times
        self._beat, self._clock = beat, clock
        self._seen: Sighting | None = None
        self._tenure: Tenure | None = None
        self._is_current = False
        """Whether what was seen is the answer to our own last write: no need to look."""
        self._trouble = ""

    @property
    def holds(self) -> bool:
        """Whether this process may act now; to be asked before every write."""
        return self._tenure is not None and self._seconds_left() > 0

    async def acquire(self) -> None:
        """Return when this process is the leader; tries for ever."""
        while True:
            self._tenure = None
            pause = await self._round()
            if self.holds:
                return
            await asyncio.sleep(pause)

    async def keep(self) -> NoReturn:
        """Renew until the Lease is lost, which raises LeaseLost not later than it may be held."""
        while True:
            pause = await self._round()
            await asyncio.sleep(max(0.0, min(pause, self._seconds_left())))

    async def release(self) -> None:
        """Give the Lease back, if it is held; to be called when nothing acts any more.

        What goes wrong is logged only: without it others wait until the Lease has run out.
        """
        tenure, self._tenure = self._tenure, None
        if tenure is None:
            return
        try:
            async with asyncio.timeout(self._request_seconds()):
                lease = await self._api.get(self._lease.path)
                if (holder_of(lease), term_of(lease)) == (self._identity, tenure.term):
                    await self._api.replace(self._lease.path, released(lease))
        except (ClusterError, TimeoutError) as error:
            _log.warning("the Lease %s was not given back: %s", self._lease.path, _words(error))

    async def _round(self) -> float:
        """Look, decide, write; returns for how many seconds there is nothing to do."""
        self._beat()
        try:
            async with asyncio.timeout(self._request_seconds()):
                pause = await self._act()
        except (ClusterError, TimeoutError) as error:
            self._is_current = False
            if not isinstance(error, Conflict):  # somebody was faster: the next look shows who
                self._complain(_words(error))
            hint = error.retry_after_seconds if isinstance(error, Throttled) else 0.0
            return max(min(hint, self._times.renew_deadline_seconds), self._times.renew_seconds)
        self._trouble = ""
        return pause

    async def _act(self) -> float:
        is_over = self._tenure is not None and not self.holds
        if self._seen is None or not (self._is_current or is_over):
            self._seen = sight(self._seen, await self._read(), self._clock())
        now = self._clock()
        match decide_lease(self._seen, self._tenure, self._identity, now, self._times):
            case Lost(reason):
                self._tenure = None
                said = f" ({self._trouble})" if self._trouble else ""
                raise LeaseLost(f"the Lease {self._lease.path} is lost: {reason}{said}")
            case Wait(seconds):
                return seconds
            case Acquire() | Renew() as action:
                await self._write(self._seen, action)
                return 0.0

    async def _read(self) -> dict[str, Any] | None:
        try:
            return await self._api.get(self._lease.path)
        except NotFound:
            return None

    async def _write(self, seen: Sighting, action: Acquire | Renew) -> None:
        sent_at, today = self._clock(), datetime.now(UTC)
        if isinstance(action, Renew) and seen.lease is not None:
            document = renewed(seen.lease, today, self._times)
        else:
            metadata = {"namespace": self._lease.namespace, "name": self._lease.name}
            document = acquired(seen.lease, metadata, self._identity, today, self._times)
        if seen.lease is None:
            answer = await self._api.create(self._lease.collection, document)
        else:
            answer = await self._api.replace(self._lease.path, document)
        self._seen = Sighting(answer, self._clock())
        self._tenure, self._is_current = Tenure(term_of(answer), sent_at), True

    def _seconds_left(self) -> float:
        if self._tenure is None:
            return 0.0
        return self._tenure.sent_at + self._times.renew_deadline_seconds - self._clock()

    def _request_seconds(self) -> float:
        """A request that hangs leaves time for another one."""
        half = self._times.renew_deadline_seconds / 2
        return half if self._tenure is None else max(0.0, min(half, self._seconds_left()))

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            _log.warning("the Lease %s: %s; trying again", self._lease.path, trouble)
        self._trouble = trouble


async def lead(elector: Elector, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Wait for the Lease, do the work while it is held, and give it back when the work has ended.

    Cancelled, it cancels the work and lets it end under the Lease. Raises LeaseLost at once when
    the Lease is lost, whatever the work is doing: the process must end then, without waiting
    for it.
    """
    await elector.acquire()
    keeping, working = asyncio.create_task(elector.keep()), asyncio.create_task(work())
    try:
        await asyncio.wait({keeping, working}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        await asyncio.wait({keeping, working}, return_when=asyncio.FIRST_COMPLETED)
        if keeping.done():
            keeping.result()
        keeping.cancel()
        with suppress(asyncio.CancelledError, LeaseLost):
            await keeping
        await elector.release()
    await working


def _words(error: Exception) -> str:
    return str(error) or "the API server did not answer in time"
