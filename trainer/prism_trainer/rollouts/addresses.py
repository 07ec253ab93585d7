"""Finds the servers behind a name: that of a headless Service has the address of each one.

Each server has to be talked to by itself, because each has to be given new weights. They are looked
up anew for every batch: a server that was replaced has another address.
"""

import asyncio
import socket
import time
from collections.abc import Sequence
from itertools import chain

import httpx2

from prism_trainer.rollouts.faults import Budget, Fault, Kind, given_up

_BETWEEN_LOOKUPS_SECONDS = 0.5


async def server_urls(urls: Sequence[str], budget: Budget) -> tuple[str, ...]:
    """One URL for each address that the hosts of `urls` have, in order.

    Raises RolloutError naming the URL of a host that has none for longer than an outage may last.
    """
    found = await asyncio.gather(*(_once_found(url, budget.outage_seconds) for url in urls))
    return tuple(dict.fromkeys(chain.from_iterable(found)))


async def known_urls(urls: Sequence[str]) -> tuple[str, ...]:
    """The same of those that have an address now."""
    found = await asyncio.gather(*(_found(url) for url in urls), return_exceptions=True)
    known = [one for one in found if not isinstance(one, BaseException)]
    return tuple(dict.fromkeys(chain.from_iterable(known)))


async def _once_found(url: str, patience_seconds: float) -> list[str]:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return await _found(url)
        except OSError as error:
            if time.monotonic() >= deadline:
                fault = Fault(Kind.UNREACHABLE, url, "look up", str(error.strerror))
                why = f"no rollout server for {patience_seconds:.0f} s"
                raise given_up(fault, why) from None
        await asyncio.sleep(_BETWEEN_LOOKUPS_SECONDS)


async def _found(url: str) -> list[str]:
    """Raises OSError for a host without an address."""
    where = httpx2.URL(url)
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    families = {answer[0] for answer in answers}
    # A server with an address of each family is one server all the same.
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    addresses = sorted({str(answer[4][0]) for answer in answers if answer[0] == family})
    return [str(where.copy_with(host=address)) for address in addresses]
