"""The client of the API, against a server that has bad moments."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from prism_operator.cluster.client import Client
from prism_operator.cluster.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Throttled,
    Unavailable,
)
from small_api import Answer, SmallApi, event, says, streams

PATH = "/api/v1/pods"
T = TypeVar("T")
EVENTS = [{"type": "ADDED", "object": {"n": n, "text": "ä" * 50}} for n in range(5)]
LINES = b"".join(event("ADDED", one["object"]) for one in EVENTS)


def asking(answer: Answer, ask: Callable[[Client], Awaitable[T]], verb: str = "GET") -> T:
    """What a request gives that is answered so."""

    async def main() -> T:
        async with SmallApi() as api:
            api.on(verb, PATH, answer)
            client = api.client()
            try:
                return await ask(client)
            finally:
                await client.close()

    return asyncio.run(main())


async def watched(client: Client, idle_seconds: float = 5.0) -> list[Any]:
    """Events until the watch ends."""
    events = client.watch(PATH, "l", "7", seconds=9.0, idle_seconds=idle_seconds)
    return [one async for one in events]


def test_any_number_of_watches_leaves_room_for_requests() -> None:
    """Six for each namespace that is served."""

    async def main() -> None:
        async with SmallApi() as api:
            api.on("WATCH", PATH, streams(LINES, stays=True))
            api.on("GET", PATH, says({"items": []}))
            client = api.client()
            watches = [asyncio.create_task(watched(client, 30.0)) for _ in range(100)]
            while len(api.asked("WATCH")) < len(watches):
                await asyncio.sleep(0.01)
            assert await asyncio.wait_for(client.get(PATH), 5.0) == {"items": []}
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
            await client.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        (400, {"message": "why"}, Invalid),
        (401, {"message": "why"}, Forbidden),
        (403, {"message": "why"}, Forbidden),
        (404, {"message": "why"}, NotFound),
        (409, {"message": "why", "reason": "Conflict"}, Conflict),
        (409, {"message": "why", "reason": "AlreadyExists"}, AlreadyExists),
        (410, {"message": "why", "reason": "Expired"}, Gone),
        (422, {"message": "why"}, Invalid),
        (418, {"message": "why"}, ClusterError),
        (500, {"message": "why"}, Unavailable),
        (503, "why, says a proxy without JSON", Unavailable),
        (504, ["why, in a list"], Unavailable),
    ],
)
def test_every_refusal_is_an_error_of_its_kind_that_says_why(
    code: int, status: Any, error: type[ClusterError]
) -> None:
    with pytest.raises(ClusterError) as caught:
        asking(says(status, code), lambda client: client.get(PATH))

    assert type(caught.value) is error
    assert caught.value.code == code
    assert PATH in str(caught.value)
    assert "why" in str(caught.value) or isinstance(status, list)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", 1.0), ("soon", 1.0)])
def test_who_is_throttled_is_told_how_long_to_wait(header: str, seconds: float) -> None:
    answer = says({"message": "too many"}, 429, {"Retry-After": header} if header else None)
    with pytest.raises(Throttled) as caught:
        asking(answer, lambda client: client.get(PATH))
    assert caught.value.retry_after_seconds == seconds


def test_an_answer_that_is_cut_off_may_have_been_carried_out() -> None:
    with pytest.raises(Unavailable, match="cut off"):
        asking(says('{"metadata": {"na'), lambda client: client.get(PATH))
    with pytest.raises(Unavailable):
        asking(streams(b"{", cut=True), lambda client: client.get(PATH))


def test_nobody_there_is_an_error_too() -> None:
    async def main() -> None:
        async with SmallApi() as api:
            client = api.client()
        with pytest.raises(Unavailable):
            await client.get(PATH)
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_events_come_whole_however_they_are_cut_into_chunks(size: int) -> None:
    chunks = [LINES[i : i + size] for i in range(0, len(LINES), size)]
    spread: list[bytes | float] = []
    for chunk in chunks:
        spread += [chunk, 0.0]
    assert asking(streams(*spread), watched, "WATCH") == EVENTS


def test_a_line_that_is_cut_off_is_no_event() -> None:
    assert asking(streams(LINES[:-20]), watched, "WATCH") == EVENTS[:-1]


def test_what_came_before_a_lost_connection_counts() -> None:
    async def ask(client: Client) -> list[Any]:
        found = []
        try:
            async for one in client.watch(PATH, "l", "7", seconds=9.0, idle_seconds=5.0):
                found.append(one)
        except Unavailable:
            return found
        raise AssertionError("it was cut")

    assert asking(streams(LINES[:-20], 0.1, cut=True), ask, "WATCH") == EVENTS[:-1]


def test_a_watch_that_says_nothing_for_too_long_is_deaf() -> None:
    with pytest.raises(Unavailable):
        asking(streams(LINES, stays=True), lambda c: watched(c, 0.1), "WATCH")


def test_noise_in_a_watch_is_an_error() -> None:
    with pytest.raises(Unavailable):
        asking(streams(b"<html>\n"), watched, "WATCH")


def test_a_watch_can_be_refused() -> None:
    with pytest.raises(Gone):
        asking(says({"message": "too old"}, 410), watched, "WATCH")


def test_requests_say_who_asks_and_for_what() -> None:
    async def main() -> None:
        async with SmallApi() as api:
            for verb in ("GET", "POST", "PATCH", "PUT", "DELETE"):
                api.on(verb, PATH, says({"items": []}))
            client = api.client()
            await client.list(PATH, "a=b", token="next", metadata=True)
            await client.create(PATH, {"a": 1})
            await client.apply(PATH, {"a": 1})
            await client.merge_patch(PATH, {"a": None})
            await client.delete(PATH, "uid-1")
            await client.close()
        listed, created, applied, merged, _ = api.requests
        assert all(r.headers["Authorization"] == "Bearer t" for r in api.requests)
        assert dict(listed.query) == {"labelSelector": "a=b", "limit": "500", "continue": "next"}
        assert "PartialObjectMetadataList" in listed.headers["Accept"]
        assert created.query["fieldManager"] == "prism-operator"
        assert applied.query["force"] == "true"
        assert applied.headers["Content-Type"] == "application/apply-patch+yaml"
        assert merged.headers["Content-Type"] == "application/merge-patch+json"

    asyncio.run(main())
