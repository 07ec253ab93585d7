"""What kubelet and Prometheus ask the operator: is it alive, is it ready, what does it measure.

Alive means that the loops move, not that HTTP answers: each loop beats, and has a longest pause
that is still a sign of life. A standby replica is alive by its election loop alone.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from prism_api.errors import PrismError


class Role(StrEnum):
    """What this replica is; `leader` and `standby` are ready."""

    STARTING = "starting"
    STANDBY = "standby"
    LEADER = "leader"
    STOPPING = "stopping"


@dataclass(frozen=True)
class Pulse:
    """When a loop moved for the last time, and how long it may rest (seconds)."""

    beat_at: float
    allowed_seconds: float


class PortTaken(PrismError):
    """The port to answer at cannot be had."""


class Health:
    """What the loops say of themselves; `beat` is cheap enough for every turn of a loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.role = Role.STARTING
        self._clock = clock
        self._pulses: dict[str, Pulse] = {}

    def watch(self, name: str, allowed_seconds: float) -> Callable[[], None]:
        """From now on `name` must beat at least so often; returns what it is to call."""

        def beat() -> None:
            if name in self._pulses:
                self._pulses[name] = Pulse(self._clock(), allowed_seconds)

        self._pulses[name] = Pulse(self._clock(), allowed_seconds)
        return beat

    def forget(self, name: str) -> None:
        """It has ended as it should; a late beat of it counts for nothing."""
        self._pulses.pop(name, None)

    def complaints(self, today: datetime) -> tuple[str, ...]:
        """A sentence for each loop that is not alive."""
        return overdue(self._pulses, self._clock(), today)


def overdue(pulses: Mapping[str, Pulse], now: float, today: datetime) -> tuple[str, ...]:
    """Which loops have not moved for too long, and since when; `now` is of the pulses' clock."""
    return tuple(
        f"{name}: has not moved for {now - pulse.beat_at:.0f} s"
        f" (since {(today - timedelta(seconds=now - pulse.beat_at)):%Y-%m-%dT%H:%M:%SZ},"
        f" {pulse.allowed_seconds:g} s are allowed)"
        for name, pulse in sorted(pulses.items())
        if now - pulse.beat_at > pulse.allowed_seconds
    )


def health_app(health: Health, registry: CollectorRegistry) -> web.Application:
    """`/healthz`, `/readyz` and `/metrics`."""

    async def healthz(_: web.Request) -> web.Response:
        complaints = health.complaints(datetime.now(UTC))
        return web.Response(
            status=503 if complaints else 200, text="\n".join(complaints or ("ok",)) + "\n"
        )

    async def readyz(_: web.Request) -> web.Response:
        is_ready = health.role in (Role.LEADER, Role.STANDBY)
        return web.Response(status=200 if is_ready else 503, text=f"{health.role}\n")

    async def metrics(_: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(registry), headers=headers)

    app = web.Application()
    app.add_routes(
        [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]
    )
    return app


@asynccontextmanager
async def serve_health(app: web.Application, port: int, host: str = "") -> AsyncIterator[int]:
    """Answer for as long as the block runs; yields the port (`port` 0: any that is free).

    An empty `host` means every address. Raises PortTaken.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host or None, port).start()
        except OSError as error:
            raise PortTaken(
                f"port {port} cannot be listened at ({error.strerror or error}): "
                "set PRISM_HTTP_PORT to one that is free"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
