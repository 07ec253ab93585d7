"""The informer: whatever a server does, the cache comes to show what is there."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from prism_operator.cluster.cache import Cache
from prism_operator.cluster.informer import Informer, Source
from prism_operator.cluster.resources import CONFIG_MAPS
from small_api import Answer, SmallApi, event, says, streams

PATH = "/api/v1/namespaces/team/configmaps"
RUN = "run-1"


def child(name: str, version: int) -> dict[str, Any]:
    """A ConfigMap of a run."""
    return {
        "metadata": {
            "name": name, "namespace": "team", "uid": f"uid-{name}",
            "resourceVersion": str(version), "labels": {"prism.dev/run-uid": RUN},
        }
    }  # fmt: skip


def a_list(version: int, *items: Any, token: str = "") -> Answer:
    """A page of a list."""
    meta = {"resourceVersion": str(version), "continue": token}
    return says({"metadata": meta, "items": list(items) or None})


class Watching:
    """A server, and an informer of it that runs."""

    def __init__(self, lists: list[Answer], watches: list[Answer]) -> None:
        self.lists, self.watches = lists, watches
        self.news: list[str] = []
        self.events: list[str] = []
        self.restarts: list[str] = []
        self.cache = Cache()

    def shows(self) -> dict[str, int]:
        """Children and their versions."""
        return {c.name: c.version for c in self.cache.children(RUN).values()}

    async def until(self, is_so: Callable[[], bool], resync_seconds: float = 300.0) -> SmallApi:
        async with SmallApi() as api:
            api.on("GET", PATH, *self.lists)
            api.on("WATCH", PATH, *self.watches)
            client = api.client()
            source = Source(CONFIG_MAPS, "team", metadata_only=True)
            self.informer = Informer(
                client, source, self.cache, self.news.append, self.events.append,
                lambda _, why: self.restarts.append(why), resync_seconds,
            )  # fmt: skip
            task = asyncio.create_task(self.informer.run())
            try:
                async with asyncio.timeout(8):
                    while not is_so():
                        assert not task.done(), task.exception()
                        await asyncio.sleep(0.01)
            finally:
                task.cancel()
                await client.close()
            return api


def test_a_list_of_several_pages_is_taken_in_as_one() -> None:
    pages = [a_list(5, child("a", 1), token="more"), a_list(5, child("b", 2))]
    world = Watching(pages, [streams(stays=True)])

    api = asyncio.run(world.until(lambda: len(world.shows()) == 2))

    assert [r.query.get("continue", "") for r in api.asked("GET")][:2] == ["", "more"]
    assert world.news == [RUN]
    assert world.informer.synced.is_set()


def test_a_watch_goes_on_from_the_newest_version_bookmarks_included() -> None:
    bookmark = {"metadata": {"resourceVersion": "40"}}
    first = streams(event("ADDED", child("a", 7)), event("BOOKMARK", bookmark))
    world = Watching([a_list(5)], [first, streams(event("DELETED", child("a", 41)), stays=True)])

    api = asyncio.run(world.until(lambda: len(world.news) == 2))

    assert [r.query["resourceVersion"] for r in api.asked("WATCH")] == ["5", "40"]
    assert world.shows() == {}
    assert len(api.asked("GET")) == 1
    assert world.events == ["configmaps", "configmaps"], "bookmarks are no events"


def test_after_a_cut_it_goes_on_and_nothing_is_missed() -> None:
    half = event("ADDED", child("b", 8))[:30]
    watches = [
        streams(event("ADDED", child("a", 7)), half, 0.05, cut=True),
        streams(event("ADDED", child("b", 8)), stays=True),
    ]
    world = Watching([a_list(5)], watches)

    api = asyncio.run(world.until(lambda: len(world.shows()) == 2))

    assert [r.query["resourceVersion"] for r in api.asked("WATCH")] == ["5", "7"]
    assert world.restarts == ["Unavailable"]


@pytest.mark.parametrize(
    "gone",
    [
        says({"message": "too old", "reason": "Expired"}, 410),
        streams(event("ERROR", {"code": 410, "message": "too old resource version"})),
    ],
    ids=["refused", "ended"],
)
def test_who_is_too_late_lists_anew(gone: Answer) -> None:
    lists = [a_list(5, child("a", 1)), a_list(90, child("b", 80))]
    world = Watching(lists, [gone, streams(stays=True)])

    api = asyncio.run(world.until(lambda: world.shows() == {"b": 80}))

    assert len(api.asked("GET")) == 2


def test_a_stale_list_takes_nothing_back() -> None:
    watches = [
        streams(event("ADDED", child("a", 7)), event("ADDED", child("b", 8)),
                event("DELETED", child("b", 9)), event("ERROR", {"code": 410})),
        streams(event("ADDED", child("c", 10)), stays=True),
    ]  # fmt: skip
    world = Watching([a_list(5), a_list(6, child("b", 4))], watches)

    asyncio.run(world.until(lambda: "c" in world.shows()))

    assert world.shows() == {"a": 7, "c": 10}


def test_a_full_list_heals_what_a_watch_never_said() -> None:
    lists = [a_list(5, child("a", 1)), a_list(9, child("b", 8))]
    world = Watching(lists, [streams()])

    api = asyncio.run(world.until(lambda: world.shows() == {"b": 8}, resync_seconds=0.3))

    assert len(api.asked("GET")) >= 2


def test_a_watch_of_what_is_quiet_ends_when_a_full_list_is_due() -> None:
    watch = streams(event("ADDED", child("b", 6)), stays=True)
    world = Watching([a_list(5, child("a", 1))], [watch])

    api = asyncio.run(world.until(lambda: len(world.shows()) == 2, resync_seconds=7.0))

    assert [r.query["timeoutSeconds"] for r in api.asked("WATCH")] == ["7"]


def test_a_kind_that_is_missing_is_waited_for_without_holding_up_the_others() -> None:
    missing = says({"message": "the server could not find the requested resource"}, 404)
    world = Watching([missing], [])

    asyncio.run(world.until(lambda: world.informer.synced.is_set()))

    assert world.shows() == {}


def seconds_until(world: Watching, shown: dict[str, int]) -> float:
    started = time.monotonic()
    asyncio.run(world.until(lambda: world.shows() == shown))
    return time.monotonic() - started


def test_failures_are_tried_again_and_throttling_is_heeded() -> None:
    lists = [
        says({"message": "no leader"}, 500),
        says({"message": "too many"}, 429, {"Retry-After": "1"}),
        a_list(5, child("a", 1)),
    ]
    world = Watching(lists, [streams(stays=True)])
    assert seconds_until(world, {"a": 1}) >= 1.0
    assert world.restarts == ["Unavailable", "Throttled"]


def test_watches_that_are_refused_are_asked_for_ever_less_often() -> None:
    refused = [says({"message": "too many"}, 429, {"Retry-After": "1"}), says("", 500)]
    world = Watching([a_list(5)], [*refused, streams(event("ADDED", child("b", 6)), stays=True)])
    assert seconds_until(world, {"b": 6}) >= 1.2
    assert world.restarts == ["Throttled", "Unavailable"]


def test_watches_that_end_at_once_are_not_asked_for_in_a_hot_loop() -> None:
    async def main() -> None:
        world = Watching([a_list(5)], [streams()])
        loop = asyncio.get_running_loop()
        started = loop.time()
        api = await world.until(lambda: loop.time() - started > 0.8)
        assert 1 <= len(api.asked("WATCH")) <= 9

    asyncio.run(main())
