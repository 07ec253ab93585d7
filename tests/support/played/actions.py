"""Changes to a cluster, recorded, and tasks that do not fail in silence."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from played.api import Api, ApiError, Json, Kind
from played.record import Record, Sent


@dataclass
class Actions:
    """What a player does to a cluster."""

    api: Api
    record: Record
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """All that are under way."""

    def start(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside; what it raises is recorded as trouble."""
        task = asyncio.create_task(self._watched(what))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda _: what.close())  # where it was cancelled before it began
        return task

    async def _watched(self, what: Coroutine[Any, Any, None]) -> None:
        try:
            await what
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            if "because it is being terminated" not in str(error):  # another test's namespace goes
                self.record.troubles.append(repr(error))
        except Exception as error:
            self.record.troubles.append(f"{type(error).__name__}: {error}")
            raise

    async def change(
        self,
        kind: Kind,
        thing: Json,
        what: str,
        request: Coroutine[Any, Any, Json],
        exit_code: int | None = None,
    ) -> bool:
        """Make a change to an object and record it; false: the object is gone, or there is another
        one of its name."""
        try:
            async with self.api.slots:
                sent_at = time.time()
                await request
        except ApiError as error:
            # Another UID is no conflict to the API server: a field that never changes is changed.
            if error.status in (404, 409) or "metadata.uid" in str(error):
                return False
            raise
        meta = thing["metadata"]
        where = (kind.name, meta.get("namespace", ""), meta["name"])
        self.record.did(Sent(*where, what, sent_at, time.time(), exit_code))
        return True

    async def set_status(self, kind: Kind, thing: Json, what: str, status: Json) -> bool:
        """Write an object's status; see `change`."""
        meta = thing["metadata"]
        path = kind.path(meta["namespace"], meta["name"], "status")
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        containers = status.get("containerStatuses") or [{"state": {}}]
        code = containers[0]["state"].get("terminated", {}).get("exitCode")
        return await self.change(kind, thing, what, self.api.patch(path, body), code)
