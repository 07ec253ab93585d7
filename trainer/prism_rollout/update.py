"""Replaces a running engine's weights: one transaction beside the engine.

fetch -> pause -> load -> resume. It is done here and not by the trainer, so that a trainer that
dies in the middle leaves no paused server, and two trainer processes cannot interleave. No request
is anywhere between the door and the engine while weights are loaded: none is let in with the old
ones and computed with the new.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prism_api.errors import PrismError
from prism_api.rollout import UpdateDeadlines, Weights
from prism_rollout.fetcher import fetch

T = TypeVar("T")
_POLL_SECONDS = 0.05


class Engine(Protocol):
    """What is used of vLLM's `EngineClient` (0.26 to 0.32)."""

    async def pause_generation(self, *, mode: Any, clear_cache: bool) -> None:
        """Stop scheduling; forget prefixes, images and encoder outputs."""

    async def resume_generation(self) -> None:
        """Schedule again."""

    async def collective_rpc(
        self, method: str, timeout: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a method of every worker."""


class UpdateFailed(PrismError):
    """The engine did not take the weights; it stays paused, so that nobody samples from half of
    them."""


class WeightUpdater:
    """Knows which weights its engine answers with, and changes them."""

    def __init__(self, folder: Path, model: Path, deadlines: UpdateDeadlines | None = None) -> None:
        self._folder, self._model = folder, model
        self._deadlines = deadlines or UpdateDeadlines()
        self._lock = asyncio.Lock()
        self._fetching: tuple[Weights, asyncio.Future[Path]] | None = None
        self._requests = 0
        self.current: Weights | None = None
        """None: those that the server was started with, or an update that has not ended well."""
        self.is_changing = False
        """Whether the engine is between two weights; whoever asks for anything has to wait."""

    @contextmanager
    def request(self) -> Iterator[None]:
        """Lasts as long as a request that may reach the engine; an update waits for its end."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def update(self, engine: Engine, wanted: Weights) -> None:
        """Answer with these weights from now on; does nothing if the engine does so already.

        Requests in flight are aborted. Raises StoreError if the weights are damaged or not this
        model's, with the engine as it was; UpdateFailed naming the part that failed.
        """
        async with self._lock:
            if self.current == wanted:
                return
            path = await _within("fetch", self._deadlines.fetch, self._fetch(wanted))
            self.current = None
            self.is_changing = True
            try:
                await self._change(engine, path)
            finally:
                self.is_changing = False
            self.current = wanted

    async def _fetch(self, wanted: Weights) -> Path:
        """The version's folder; one that is still being fetched is waited for, as nothing ends a
        thread whose deadline has passed."""
        if self._fetching is None or self._fetching[0] != wanted or self._fetching[1].done():
            thread = asyncio.to_thread(fetch, wanted, self._folder, self._model)
            self._fetching = wanted, asyncio.ensure_future(thread)
        return await asyncio.shield(self._fetching[1])

    async def _change(self, engine: Engine, path: Path) -> None:
        limits = self._deadlines
        await _within("pause", limits.pause, self._pause(engine))
        load = engine.collective_rpc("reload_weights", limits.load, (), {"weights_path": str(path)})
        await _within("load", limits.load, load)
        await _within("resume", limits.resume, engine.resume_generation())

    async def _pause(self, engine: Engine) -> None:
        """Abort what the engine has until nobody is left who could bring it more, then clear it."""
        while self._requests:
            await engine.pause_generation(mode="abort", clear_cache=False)
            await asyncio.sleep(_POLL_SECONDS)
        # Without the clearing of caches, the next request with an image that was seen before ends
        # the engine ("Encoder cache miss"), or gets features of the old weights. The server clears
        # its own cache of images before the engine's: nobody may bring one in between.
        await engine.pause_generation(mode="abort", clear_cache=True)


async def _within(part: str, seconds: float, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except PrismError:
        raise
    except TimeoutError:
        raise UpdateFailed(f"{part}: took longer than {seconds:g} s; restart the server") from None
    except Exception as error:  # the engine's own; whatever it is, the trainer hears of it
        reason = f"{type(error).__name__}: {error}"
        raise UpdateFailed(f"{part}: {reason}; see the server's log") from error
