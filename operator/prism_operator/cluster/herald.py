"""Posts Events of runs beside everything else: nobody waits for them, and none is worth a retry."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from prism_api.status import PrismRunStatus
from prism_operator.cluster.client import Client
from prism_operator.cluster.errors import ClusterError
from prism_operator.cluster.events import RunReference, build_event, notes_between
from prism_operator.cluster.logs import run_context
from prism_operator.cluster.resources import EVENTS
from prism_operator.cluster.runs import RunRecord

_log = logging.getLogger(__name__)

_MOST_WAITING = 10_000


class Herald:
    """Of one operator; `instance` is its pod."""

    def __init__(
        self,
        client: Client,
        instance: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client, self._instance, self._clock = client, instance, clock
        self._waiting: asyncio.Queue[tuple[str, dict[str, object]]] = asyncio.Queue(_MOST_WAITING)

    def tell(self, record: RunRecord, before: PrismRunStatus) -> None:
        """Log and post what a stored status says beyond the one before."""
        run = RunReference(record.namespace, record.name, record.uid)
        for note in notes_between(before, record.status):
            with run_context(*record.place):
                level = logging.WARNING if note.type == "Warning" else logging.INFO
                _log.log(level, "%s: %s", note.reason, note.message)
            event = build_event(run, note, self._clock(), self._instance)
            if not self._waiting.full():
                self._waiting.put_nowait((run.namespace, event))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            namespace, event = await self._waiting.get()
            try:
                await self._client.create(EVENTS.path(namespace), event)
            except ClusterError as error:
                _log.info("an Event was not posted: %s", error)
