"""One replica of an operator that does nothing but lead.

`python lease_candidate.py URL CA NAMESPACE IDENTITY`, the API's token on stdin. Prints `leads` when
it begins to; SIGTERM ends it. Its Lease holds for 3 s, its holder renews every 0.5 s and gives up
after 2.
"""

import asyncio
import signal
import ssl
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import aiohttp

from prism_operator.cluster.errors import Conflict, NotFound, Unavailable
from prism_operator.cluster.leadership import Elector, LeaseName, lead
from prism_operator.cluster.lease import LeaseTimes

TIMES = LeaseTimes(lease_seconds=3.0, renew_deadline_seconds=2.0, renew_seconds=0.5)
ERRORS = {404: NotFound, 409: Conflict}


class LeaseClient:
    """Leases over HTTP, and no more of the API than that."""

    def __init__(self, url: str, authority: str, token: str) -> None:
        self._session = aiohttp.ClientSession(
            url,
            headers={"Authorization": f"Bearer {token}"},
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=authority)),
        )

    async def __aenter__(self) -> "LeaseClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str) -> dict[str, Any]:
        """As LeaseApi."""
        return await self._ask("GET", path)

    async def create(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """As LeaseApi."""
        return await self._ask("POST", path, manifest)

    async def replace(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """As LeaseApi."""
        return await self._ask("PUT", path, document)

    async def _ask(
        self, verb: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            async with self._session.request(verb, path, json=body) as answer:
                document: dict[str, Any] = await answer.json()
        except aiohttp.ClientError as error:
            raise Unavailable(str(error)) from None
        if answer.status >= 300:
            raise ERRORS.get(answer.status, Unavailable)(str(document["message"]))
        return document


async def _work() -> None:
    sys.stdout.write("leads\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def _main(url: str, authority: str, namespace: str, identity: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with LeaseClient(url, authority, sys.stdin.readline().strip()) as client:
        await lead(Elector(client, LeaseName(namespace, "prism-operator"), identity, TIMES), _work)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
