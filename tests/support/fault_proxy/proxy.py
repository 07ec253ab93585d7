"""The proxy itself: plain HTTP on loopback towards the client, TLS towards the API server.

Requests pass with their own headers, so the client is who its token says.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import yaml
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from event_loops import reset_connections
from fault_proxy.answers import Answer, Identity, OldLists, failure
from fault_proxy.faults import (
    AFTER,
    BEFORE,
    OF_LISTS,
    OF_READS,
    OF_WRITES,
    RESETS,
    Counts,
    Dice,
    Fault,
)
from fault_proxy.streams import Cut, disturbed
from fault_proxy.writes import Hook, Killed, Moment, Write

_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "host", "keep-alive", "te", "transfer-encoding", "upgrade"}
)


class Reset(Exception):
    """The client's connection is to be reset."""


class FaultProxy:
    """`with FaultProxy(cluster.url, cluster.certificate_authority) as proxy:` serves at `proxy.url`
    in a thread of its own.

    `busy` says whether something is in flight, as the test knows it; by default, whether another
    request is. `spared` says of a method and path that they meet with no faults.
    """

    def __init__(
        self,
        upstream: str,
        authority: Path,
        *,
        seed: int = 0,
        busy: Callable[[], bool] | None = None,
        spared: Callable[[str, str], bool] = lambda method, path: False,
        delay_s: float = 0.5,
        retry_after_s: int = 1,
    ) -> None:
        self.url = ""
        """Where clients find it."""
        self.writes: list[Write] = []
        """All writes, in the order of their arrival."""
        self.hook: Hook | None = None
        """Called before and after each write that `counted` chooses."""
        self.counted: Callable[[str, str], bool] = lambda method, path: True
        """Of a method and path: whether such a write has an index and is told to the hook."""
        self.may_be_stale: Callable[[str], bool] = lambda path: True
        """Of a path with query: whether an older list may be the answer."""
        self._upstream, self._authority = upstream.rstrip("/"), authority
        self._dice = Dice(seed, busy or (lambda: len(self._open) > 1), spared)
        self._delay_s, self._retry_after_s = delay_s, retry_after_s
        self._lists = OldLists()
        self._open: set[asyncio.Transport] = set()
        self._watching: set[asyncio.Transport] = set()
        self.severed = False
        """Whether the client is cut off."""
        self.refused = 0
        """Requests that met with an API server that was away."""
        self._started, self._idle = threading.Event(), threading.Event()
        self._failure: BaseException | None = None

    # --- what tests use ---

    @property
    def rates(self) -> Mapping[Fault, float]:
        """Probability of each fault at an opportunity for it (an event, a request)."""
        return self._dice.rates

    @rates.setter
    def rates(self, rates: Mapping[Fault, float]) -> None:
        self._dice.rates = dict(rates)

    @property
    def counts(self) -> Counts:
        """Faults injected so far."""
        return self._dice.counts

    @property
    def connections(self) -> int:
        """Watches and other requests that are open now."""
        return len(self._watching) + len(self._open)

    def once(self, fault: Fault, where: str = "") -> None:
        """Inject a fault at the next opportunity in a path (with query) that contains `where`."""
        self._loop.call_soon_threadsafe(self._dice.order, fault, where)

    def sever(self) -> None:
        """Reset all connections and refuse everything until `revive`: to the API server, the client
        is dead."""

        async def cut_off() -> None:
            self._cut_off()

        asyncio.run_coroutine_threadsafe(cut_off(), self._loop).result()

    def revive(self) -> None:
        """Serve again, once nothing of the dead client's is under way."""
        self._idle.wait()
        self.severed = False

    def kubeconfig(self, original: Path, copy: Path) -> Path:
        """A copy of a kubeconfig that leads through the proxy; returns the copy."""
        document = yaml.safe_load(original.read_text())
        for entry in document["clusters"]:
            entry["cluster"] = {"server": self.url}
        copy.touch(mode=0o600)
        copy.write_text(yaml.safe_dump(document))
        return copy

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure:
            raise RuntimeError("the fault proxy could not start") from self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    # --- its thread ---

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._idle.set()
        tls = ssl.create_default_context(cafile=str(self._authority))
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
        ) as self._session:
            server = web.Server(self._handle, handler_cancellation=True)
            runner = web.ServerRunner(server, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._started.set()
            await self._stop.wait()
            self._cut_off()
            await runner.cleanup()
        await reset_connections()

    def _cut_off(self) -> None:
        self.severed = True
        for transport in tuple(self._open | self._watching):
            _reset(transport)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        is_watch = request.query.get("watch") in ("1", "true")
        group = self._watching if is_watch else self._open
        transport = request.transport
        assert transport is not None, "a request that is being handled has a connection"
        group.add(transport)
        self._idle.clear()
        try:
            if self.severed:
                raise Reset
            return await (self._watch(request) if is_watch else self._exchange(request))
        except (Reset, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            # An API server that is away looks like a reset connection, too.
            self.refused += isinstance(error, aiohttp.ClientError)
            _reset(transport)
            return web.Response()
        finally:
            group.discard(transport)
            if not self._open:
                self._idle.set()

    async def _exchange(self, request: web.BaseRequest) -> web.StreamResponse:
        """A request with one answer: the API server's, unless a fault comes before it, in its
        place, or after it."""
        body = await request.read()
        write = self._noted(request, body)
        fault = self._dice.falls(self._candidates(request), request.method, request.path_qs)
        if fault in BEFORE:
            self._dice.count(fault)
            return self._refusal(fault)
        if fault is Fault.REQUEST_DELAYED:
            self._dice.count(fault)
            await asyncio.sleep(self._dice.delay(self._delay_s))
        answer = await self._made(request, body, write)
        if request.method == "GET" and answer.is_list:
            answer = self._maybe_old(_identity(request), answer, fault)
        if fault in AFTER:
            self._dice.count(fault)
            return self._refusal(fault)
        return answer.response()

    def _candidates(self, request: web.BaseRequest) -> tuple[Fault, ...]:
        if request.method != "GET":
            return OF_WRITES
        is_stale = self.may_be_stale(request.path_qs) and self._lists.has(_identity(request))
        return OF_LISTS if is_stale else OF_READS

    def _refusal(self, fault: Fault) -> web.Response:
        if fault in RESETS:
            raise Reset
        return failure(fault, self._retry_after_s).response()

    async def _made(self, request: web.BaseRequest, body: bytes, write: Write | None) -> Answer:
        """What the API server answers; the hook is told of a write."""
        self._call_hook("before", write)
        async with self._asked(request, body) as response:
            answer = Answer(response.status, _passed(response.headers), await response.read())
        if write:
            write.status = answer.status
        self._call_hook("after", write)
        if self.severed:
            raise Reset
        return answer

    def _noted(self, request: web.BaseRequest, body: bytes) -> Write | None:
        if request.method == "GET" or not self.counted(request.method, request.path_qs):
            return None
        write = Write(len(self.writes), request.method, request.path_qs, body)
        self.writes.append(write)
        return write

    def _call_hook(self, moment: Moment, write: Write | None) -> None:
        try:
            if write and self.hook:
                self.hook(moment, write)
        except Killed:
            self._cut_off()
            raise Reset from None

    def _maybe_old(self, identity: Identity, answer: Answer, fault: Fault | None) -> Answer:
        """An older list instead of this one, if it shall be; keeps this one."""
        old = self._lists.older_than(identity, answer)
        self._lists.keep(identity, answer)
        if fault is not Fault.LIST_STALE or old is None:
            return answer
        self._dice.count(fault)
        return old

    async def _watch(self, request: web.BaseRequest) -> web.StreamResponse:
        async with self._asked(request, None) as upstream:
            response = web.StreamResponse(status=upstream.status, headers=_passed(upstream.headers))
            await response.prepare(request)
            lines = disturbed(
                upstream.content.iter_any(), self._dice, request.path_qs, self._delay_s
            )
            try:
                async with contextlib.aclosing(lines):
                    async for line in lines:
                        await response.write(line)
            except Cut as cut:
                await response.write(cut.rest)
                raise Reset from None
            await response.write_eof()
            return response

    def _asked(
        self, request: web.BaseRequest, body: bytes | None
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.request(
            request.method,
            URL(self._upstream + request.path_qs, encoded=True),
            headers=_passed(request.headers),
            data=body or None,
        )


def _identity(request: web.BaseRequest) -> Identity:
    """Requests that are the same have the same answer: also who asks, and in which form."""
    headers = request.headers
    return request.path_qs, headers.get("Accept", ""), headers.get("Authorization", "")


def _passed(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Headers that concern client and server, not the connection between two of them."""
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in _HOP_BY_HOP)


def _reset(transport: asyncio.Transport) -> None:
    """End a connection as a crash does: with RST, whatever was not sent is lost."""
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
