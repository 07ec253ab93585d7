"""The operator is alive while its loops move, and says which one does not."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from prism_operator.cluster.health import (
    Health,
    PortTaken,
    Pulse,
    Role,
    health_app,
    overdue,
    serve_health,
)

T = TypeVar("T")
TODAY = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def asked(
    health: Health, ask: Callable[[Callable[[str], Awaitable[tuple[int, str]]]], Awaitable[T]]
) -> T:
    """What `ask` makes of a real server's answers."""

    async def main() -> T:
        registry = CollectorRegistry()
        Counter("prism_example", "Counts.", registry=registry).inc(3)
        async with (
            serve_health(health_app(health, registry), 0, "127.0.0.1") as port,
            aiohttp.ClientSession() as session,
        ):

            async def get(path: str) -> tuple[int, str]:
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    return answer.status, await answer.text()

            return await ask(get)

    return asyncio.run(main())


def test_it_is_alive_while_every_loop_moves_and_names_the_one_that_does_not() -> None:
    clock = Clock()
    health = Health(clock)

    async def ask(get: Callable[[str], Awaitable[tuple[int, str]]]) -> None:
        assert await get("/healthz") == (200, "ok\n")
        reconcile, lease = health.watch("reconcile", 60.0), health.watch("lease", 30.0)
        clock.seconds += 29.0
        assert await get("/healthz") == (200, "ok\n")
        lease()
        clock.seconds += 32.0
        status, body = await get("/healthz")
        assert status == 503
        assert [line.split(" (since ")[0] for line in body.splitlines()] == [
            "lease: has not moved for 32 s",
            "reconcile: has not moved for 61 s",
        ]
        reconcile()
        lease()
        assert await get("/healthz") == (200, "ok\n")

    asked(health, ask)


def test_what_is_overdue_is_said_with_since_when_and_what_is_allowed() -> None:
    pulses = {"reconcile": Pulse(10.0, 60.0), "lease": Pulse(80.0, 30.0)}
    assert overdue(pulses, 82.0, TODAY) == (
        "reconcile: has not moved for 72 s (since 2026-01-02T03:02:53Z, 60 s are allowed)",
    )


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.tuples(st.floats(0, 100), st.floats(1, 50)), min_size=1
    ),
    st.floats(100, 200),
)
def test_whoever_beat_within_what_is_allowed_is_never_blamed(
    beats: dict[str, tuple[float, float]], now: float
) -> None:
    pulses = {name: Pulse(at, allowed) for name, (at, allowed) in beats.items()}
    late = {name for name, (at, allowed) in beats.items() if now - at > allowed}
    assert {line.split(":")[0] for line in overdue(pulses, now, TODAY)} == late


def test_a_loop_that_ended_as_it_should_is_not_missed_and_a_late_beat_does_not_revive_it() -> None:
    clock = Clock()
    health = Health(clock)
    beat = health.watch("reconcile", 60.0)
    health.forget("reconcile")
    beat()
    clock.seconds += 1000.0
    assert health.complaints(TODAY) == ()


@pytest.mark.parametrize(
    ("role", "status"),
    [(Role.STARTING, 503), (Role.STANDBY, 200), (Role.LEADER, 200), (Role.STOPPING, 503)],
)
def test_leader_and_standby_are_ready(role: Role, status: int) -> None:
    health = Health()
    health.role = role

    async def ask(get: Callable[[str], Awaitable[tuple[int, str]]]) -> None:
        assert await get("/readyz") == (status, f"{role.value}\n")

    asked(health, ask)


def test_prometheus_can_read_the_metrics() -> None:
    async def ask(get: Callable[[str], Awaitable[tuple[int, str]]]) -> str:
        status, body = await get("/metrics")
        assert status == 200
        return body

    body = asked(Health(), ask)
    (family,) = [f for f in text_string_to_metric_families(body) if f.type == "counter"]
    assert [(s.name, s.value) for s in family.samples if s.name.endswith("_total")] == [
        ("prism_example_total", 3.0)
    ]


def test_a_loop_that_blocks_the_process_is_not_alive_either() -> None:
    """The server shares the loops' thread: it cannot answer in their place."""

    async def main() -> None:
        app = health_app(Health(), CollectorRegistry())
        async with serve_health(app, 0, "127.0.0.1") as port:
            with socket.create_connection(("127.0.0.1", port), timeout=0.2) as client:
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: operator\r\n\r\n")
                with pytest.raises(TimeoutError):
                    client.recv(1)  # in the same thread: nothing else moves

    asyncio.run(main())


def test_a_port_that_is_taken_is_named_with_the_setting() -> None:
    async def main(port: int) -> None:
        async with serve_health(health_app(Health(), CollectorRegistry()), port, "127.0.0.1"):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} cannot be .*set PRISM_HTTP_PORT"):
            asyncio.run(main(port))
