"""One server that answers for all played pods, by the address that it was asked at."""

import asyncio
import time
from collections.abc import Mapping

from aiohttp import web

from played.kubelet import Actor
from played.reports import progress_of
from prism_api.reporting import PROGRESS_PATH


class ProgressServer:
    """GET /progress of every running rank 0."""

    def __init__(self, actors: Mapping[str, Actor]) -> None:
        self._actors = actors
        self.asked = 0
        """Requests so far."""

    async def start(self, port: int) -> web.ServerRunner:
        """Listen on all addresses; the caller cleans the runner up."""
        server = web.Server(self._answer, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", port).start()
        return runner

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        assert request.transport is not None
        actor = self._actors.get(request.transport.get_extra_info("sockname")[0])
        if actor is None or actor.playing is None or actor.part.progress == "cut":
            request.transport.abort()
            return web.Response()
        if actor.part.progress == "not yet":
            return web.Response(status=503)
        if actor.part.progress == "silent":
            await asyncio.Event().wait()
        if actor.part.progress == "rubbish":
            return web.Response(text="<html>no such thing</html>")
        if actor.rank != 0 or request.path != PROGRESS_PATH:
            return web.Response(status=404)
        report = progress_of(actor.playing, time.monotonic())
        return web.json_response(text=report.model_dump_json(by_alias=True))
