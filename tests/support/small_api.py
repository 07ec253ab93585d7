"""A small HTTP server that answers as it is told: what an API server, or a pod, says in its bad
moments."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import kopf
from aiohttp import web

from prism_operator.cluster.client import Client
from prism_operator.cluster.connection import Connection

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SmallApi:
    """Answers by path and, for watches, the next of a list; what is not told is 404."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        """By method and path; watches are `WATCH`. The last answer is repeated."""
        self.requests: list[web.Request] = []
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> "SmallApi":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.port, self.url = port, f"http://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def on(self, verb: str, path: str, *answers: Answer) -> None:
        """Answer so, one after the other."""
        self.answers[f"{verb} {path}"] = list(answers)

    def asked(self, verb: str) -> list[web.Request]:
        """Requests of a verb."""
        return [request for request in self.requests if _verb(request) == verb]

    def client(self) -> Client:
        """Of this server."""
        return Client(Connection(kopf.ConnectionInfo(server=self.url, token="t")))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        answers = self.answers.get(f"{_verb(request)} {request.path}")
        if not answers:
            return web.json_response({"message": "the server could not find it"}, status=404)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return await answer(request)


def _verb(request: web.Request) -> str:
    return "WATCH" if "watch" in request.query else request.method


def says(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """A whole answer: JSON, or a text as it is."""

    async def answer(_: web.Request) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(text=text, status=status, headers=headers)

    return answer


def streams(*chunks: bytes | float, stays: bool = False, cut: bool = False) -> Answer:
    """A watch: bytes as they are sent, seconds to wait between them; it ends well, stays open, or
    its connection is cut."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            if isinstance(chunk, float):
                await asyncio.sleep(chunk)
            else:
                await response.write(chunk)
        if stays:
            await asyncio.sleep(60)
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    return answer


def event(kind: str, document: Any) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": document}).encode() + b"\n"
