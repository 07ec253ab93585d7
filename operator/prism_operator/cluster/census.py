"""Lists all PrismRuns now and then: what a watch has missed of them comes to light."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from prism_operator.cluster.client import Client, Document
from prism_operator.cluster.errors import ClusterError
from prism_operator.cluster.resources import RUNS
from prism_operator.cluster.runs import RunRecord

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told of runs."""

    def run_listed(self, document: Document) -> None: ...
    def run_missed(self, uid: str) -> None: ...


class Census:
    """Of the runs in some namespaces, or in all.

    kopf goes on where its watch ended and lists anew only when the API server has forgotten that
    place, so nothing else would heal a lost event.
    """

    def __init__(
        self,
        client: Client,
        namespaces: tuple[str, ...],
        listener: Listener,
        records: Callable[[], Mapping[str, RunRecord]],
        pause_seconds: float,
    ) -> None:
        self._client, self._namespaces = client, namespaces or (None,)
        self._listener, self._records, self._pause_seconds = listener, records, pause_seconds

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._pause_seconds)
            for namespace in self._namespaces:
                try:
                    await self._count(namespace)
                except ClusterError as error:
                    _log.info("%s", error)

    async def _count(self, namespace: str | None) -> None:
        documents: list[Document] = []
        token = ""
        while True:
            page = await self._client.list(RUNS.path(namespace), "", token=token)
            documents += page["items"] or ()
            token = page["metadata"].get("continue", "")
            if not token:
                break
        version = int(page["metadata"]["resourceVersion"])
        listed = {document["metadata"]["uid"] for document in documents}
        for record in list(self._records().values()):
            is_here = namespace in (None, record.namespace)
            if is_here and record.uid not in listed and record.version <= version:
                self._listener.run_missed(record.uid)
        for document in documents:
            self._listener.run_listed(document)
