"""Loops that end in a process that goes on."""

import asyncio

_TURNS = 5
"""Of the loop, after which what was aborted is closed; one with TLS has a transport below it."""


async def reset_connections() -> None:
    """End all connections of this loop, as the end of a process would: a loop that is closed before
    them leaves them open, and Python complains of that."""
    loop = asyncio.get_running_loop()
    for _ in range(_TURNS):
        for transport in list(loop._transports.values()):  # type: ignore[attr-defined]
            transport.abort()
        await asyncio.sleep(0)
