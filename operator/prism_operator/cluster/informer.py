"""Lists and watches one kind of children for ever, into the cache."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from prism_api.names import UID_LABEL
from prism_operator.cluster.cache import Cache
from prism_operator.cluster.client import Client, Document
from prism_operator.cluster.errors import ClusterError, Gone, NotFound, Throttled
from prism_operator.cluster.resources import Resource

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 90.0
"""The API server sends a bookmark a minute: who hears nothing for so long is deaf."""
_HELD_SECONDS = 5.0
"""A watch that was cut after so long had not been refused."""
_LONGEST_PAUSE_SECONDS = 30.0
_ABSENT_SECONDS = 10.0
"""Pause before a kind is looked for again that is not served here."""


@dataclass(frozen=True)
class Source:
    """A kind in one namespace, or in all."""

    resource: Resource
    namespace: str | None
    metadata_only: bool

    @property
    def path(self) -> str:
        """Of the collection."""
        return self.resource.path(self.namespace)


class Informer:
    """Keeps the cache's part of one source up to date and tells which runs have news."""

    def __init__(
        self,
        client: Client,
        source: Source,
        cache: Cache,
        on_news: Callable[[str], None],
        on_event: Callable[[str], None],
        on_restart: Callable[[Resource, str], None],
        resync_seconds: float,
    ) -> None:
        self._client, self._source, self._cache = client, source, cache
        self._on_news, self._on_event, self._on_restart = on_news, on_event, on_restart
        self._resync_seconds = resync_seconds
        self._version, self._failures = "", 0
        self.synced = asyncio.Event()
        """Set once a first full list has been taken in, or the kind is known to be missing."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._list()
                self._failures = 0
                await self._watch_until(time.monotonic() + self._resync_seconds)
            except NotFound:
                self.synced.set()
                await asyncio.sleep(_ABSENT_SECONDS)
            except ClusterError as error:
                await self._recover(error)

    async def _recover(self, error: ClusterError) -> None:
        """The longer a pause, the more failures there were without any event between."""
        self._failures += 1
        self._on_restart(self._source.resource, type(error).__name__)
        _log.log(logging.INFO if self._failures < 3 else logging.WARNING, "%s", error)
        pause = min(_LONGEST_PAUSE_SECONDS, 0.1 * 2**self._failures) * random.uniform(0.5, 1.0)
        if isinstance(error, Throttled):
            pause = max(pause, error.retry_after_seconds)
        await asyncio.sleep(pause)

    async def _list(self) -> None:
        documents: list[Document] = []
        token = ""
        while True:
            page = await self._client.list(
                self._source.path, UID_LABEL, token=token, metadata=self._source.metadata_only
            )
            documents += page["items"] or ()  # null where there are none
            token = page["metadata"].get("continue", "")
            if not token:
                break
        self._version = page["metadata"]["resourceVersion"]
        news = self._cache.replace(
            self._source.resource, self._source.namespace, documents, int(self._version)
        )
        self.synced.set()
        for run_uid in news:
            self._on_news(run_uid)

    async def _watch_until(self, deadline: float) -> None:
        """Go on from the newest version until it is time for a full list, which heals whatever
        was missed."""
        while (began := time.monotonic()) < deadline:
            try:
                await self._watch(deadline)
                await _breathe()
            except Gone:
                await _breathe()
                return
            except NotFound as error:
                self._on_restart(self._source.resource, type(error).__name__)
                raise
            except ClusterError as error:
                if time.monotonic() - began > _HELD_SECONDS:
                    self._failures = 0
                await self._recover(error)

    async def _watch(self, deadline: float) -> None:
        source = self._source
        events = self._client.watch(
            source.path,
            UID_LABEL,
            self._version,
            seconds=deadline - time.monotonic(),
            idle_seconds=_IDLE_SECONDS,
            metadata=source.metadata_only,
        )
        async for event in events:
            self._take(event)
            if time.monotonic() > deadline:
                return

    def _take(self, event: Document) -> None:
        document = event["object"]
        if event["type"] == "ERROR":
            raise Gone(f"WATCH {self._source.path}", 410, str(document.get("message", "")))
        self._version, self._failures = document["metadata"]["resourceVersion"], 0
        if event["type"] == "BOOKMARK":
            return
        self._on_event(self._source.resource.plural)
        change = self._cache.remove if event["type"] == "DELETED" else self._cache.put
        run_uid = change(self._source.resource, document)
        if run_uid:
            self._on_news(run_uid)


async def _breathe() -> None:
    """Whoever ends watches as soon as they begin is not asked in a hot loop."""
    await asyncio.sleep(random.uniform(0.1, 0.5))
