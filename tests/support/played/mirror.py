"""Objects of one kind as the API server has them: list, then watch, list anew when it must."""

import asyncio
from collections.abc import Callable
from typing import Literal

import aiohttp

from played.api import Api, ApiError, Json, Kind

Key = tuple[str, str]
"""Namespace and name."""
Change = Literal["ADDED", "MODIFIED", "DELETED"]
Listener = Callable[[Change, Json], None]

_PAUSE_S = 0.2


def key_of(thing: Json) -> Key:
    """Namespace and name of an object."""
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


class Mirror:
    """Tells a listener of every change, in order; what was missed between two lists is told as the
    changes that lead there."""

    def __init__(
        self, api: Api, kind: Kind, namespace: str | None, selector: str, listener: Listener
    ) -> None:
        self.objects: dict[Key, Json] = {}
        """All that there are."""
        self.synced = asyncio.Event()
        """Set when the first list is in."""
        self.lists = 0
        """Times that everything was listed."""
        self._api, self._path, self._selector = api, kind.path(namespace), selector
        self._listener = listener

    async def run(self) -> None:
        """Follow for ever."""
        version = ""
        while True:
            try:
                version = version or await self._list()
                version = await self._watch(version)
            except ApiError as error:
                version = "" if error.status in (400, 410) else version
                await asyncio.sleep(_PAUSE_S)
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(_PAUSE_S)

    async def _list(self) -> str:
        answer = await self._api.get(self._path, labelSelector=self._selector)
        found = {key_of(item): item for item in answer["items"]}
        for key in [key for key in self.objects if key not in found]:
            self._tell("DELETED", self.objects[key])
        for item in found.values():
            self._tell("ADDED", item)
        self.lists += 1
        self.synced.set()
        version: str = answer["metadata"]["resourceVersion"]
        return version

    async def _watch(self, version: str) -> str:
        """Follow one stream to its end; returns the newest version that it told of."""
        try:
            async for event in self._api.watch(
                self._path, labelSelector=self._selector, resourceVersion=version
            ):
                if event["type"] != "BOOKMARK":
                    self._tell(event["type"], event["object"])
                version = event["object"]["metadata"]["resourceVersion"]
        except (aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(_PAUSE_S)
        return version

    def _tell(self, change: Change, thing: Json) -> None:
        key = key_of(thing)
        before = self.objects.get(key)
        if before and before["metadata"]["uid"] != thing["metadata"]["uid"]:
            self._listener("DELETED", before)
            before = None
        if change == "DELETED":
            self.objects.pop(key, None)
            self._listener("DELETED", thing)
            return
        if before and before["metadata"]["resourceVersion"] == thing["metadata"]["resourceVersion"]:
            return
        self.objects[key] = thing
        self._listener("MODIFIED" if before else "ADDED", thing)
