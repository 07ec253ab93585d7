"""A watch's lines with faults in them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import orjson

from fault_proxy.faults import OF_EVENTS, Dice, Fault

_EXPIRED = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old resource version: 1 (2)",
        "reason": "Expired",
        "code": 410,
    },
}
_HELD_S = 0.5


class Cut(Exception):
    """The stream breaks after these bytes."""

    def __init__(self, rest: bytes) -> None:
        super().__init__("cut")
        self.rest = rest


async def disturbed(
    chunks: AsyncIterator[bytes], dice: Dice, path: str, delay_s: float
) -> AsyncGenerator[bytes, None]:
    """Lines of a watch, bookmarks and errors as they are, events as the dice fall; ends early, or
    raises Cut, where they say so."""
    async with _queued(chunks) as lines:
        while (line := await lines.get()) is not None:
            fault = None if _is_other(line) else dice.falls(OF_EVENTS, "GET", path)
            if fault is None:
                yield line
                continue
            if fault is Fault.EVENTS_SWAPPED:
                if (after := await _next(lines)) is not None:
                    dice.count(fault)
                    yield after
                yield line
                continue
            dice.count(fault)
            if fault is Fault.STREAM_ENDED:
                return
            if fault is Fault.STREAM_EXPIRED:
                yield orjson.dumps(_EXPIRED) + b"\n"
                return
            if fault is Fault.STREAM_CUT:
                raise Cut(line[: len(line) // 2])
            if fault is Fault.EVENT_DELAYED:
                await asyncio.sleep(dice.delay(delay_s))
            if fault is Fault.EVENT_DUPLICATED:
                yield line
            if fault is not Fault.EVENT_DROPPED:
                yield line


def _is_other(line: bytes) -> bool:
    """No event of an object."""
    return line.startswith((b'{"type":"BOOKMARK"', b'{"type":"ERROR"'))


async def _next(lines: "asyncio.Queue[bytes | None]") -> bytes | None:
    """The line after, if one comes soon; the end of the stream stays in the queue."""
    try:
        line = await asyncio.wait_for(lines.get(), _HELD_S)
    except TimeoutError:
        return None
    if line is None:
        lines.put_nowait(None)
    return line


@contextlib.asynccontextmanager
async def _queued(chunks: AsyncIterator[bytes]) -> AsyncIterator["asyncio.Queue[bytes | None]"]:
    """Whole lines as they come, then None: a queue, unlike a stream, can be waited for with a
    deadline."""
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def fill() -> None:
        rest = b""
        try:
            async for chunk in chunks:
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    lines.put_nowait(line + b"\n")
        finally:
            lines.put_nowait(None)

    filling = asyncio.create_task(fill())
    try:
        yield lines
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
