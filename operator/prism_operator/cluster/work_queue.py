"""Keys to be worked on: each once however often it is asked for, never twice at the same time."""

import asyncio
import heapq
import time


class WorkQueue:
    """Of the UIDs of runs; a key that comes while it is worked on is due again afterwards."""

    def __init__(self) -> None:
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: set[str] = set()
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._later: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: str) -> None:
        """Due now."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: str, seconds: float) -> None:
        """Due after a while, unless it is due earlier anyway."""
        due = time.monotonic() + seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._later, (due, key))
            self._changed.set()

    def forget(self, key: str) -> None:
        """Not due any more."""
        self._due.pop(key, None)
        self._again.discard(key)

    async def get(self) -> str:
        """The next key; `done` has to follow."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._busy.add(key)
        return key

    def done(self, key: str) -> None:
        """The key may be worked on again."""
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    async def keep_time(self) -> None:
        """Makes keys due whose time has come, until cancelled."""
        while True:
            self._changed.clear()
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                due, key = heapq.heappop(self._later)
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add(key)
            seconds = self._later[0][0] - now if self._later else 3600.0
            try:
                await asyncio.wait_for(self._changed.wait(), seconds)
            except TimeoutError:
                continue
