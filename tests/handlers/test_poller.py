"""The poller: what rank 0 says reaches its run, once, and nothing that it does harms anybody."""

import asyncio
import json
from typing import Any

import pytest

from prism_operator.cluster.poller import Poller
from small_api import Answer, SmallApi, says, streams


def a_report(step: int = 1) -> dict[str, Any]:
    """As the launcher's monitor answers."""
    return {"stage": "sft", "attempt": 1, "uid": "u", "phase": "train", "step": step, "steps": 9}


async def polled(
    api: SmallApi, seconds: float, *, forgets: bool = False
) -> tuple[Poller, list[str]]:
    """A poller of one run, after a while."""
    news: list[str] = []
    poller = Poller(0.02, news.append, api.port)
    poller.watch("run-1", "127.0.0.1")
    if forgets:
        poller.forget("run-1")
    task = asyncio.create_task(poller.run())
    await asyncio.sleep(seconds)
    task.cancel()
    return poller, news


def test_a_report_is_news_when_it_is_another_one() -> None:
    async def main() -> None:
        async with SmallApi() as api:
            api.on("GET", "/progress", says(a_report(1)), says(a_report(1)), says(a_report(2)))
            poller, news = await polled(api, 0.5)
            assert news == ["run-1", "run-1"]
            newest = poller.newest("run-1")
            assert newest is not None
            assert newest.step == 2
            assert len(api.requests) > 3
            poller.forget("run-1")
            assert poller.newest("run-1") is None

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        says("", 200),
        says("{}"),
        says("not JSON"),
        says(json.dumps(a_report())[:30]),
        says(a_report(), 503),
        streams(b"{", cut=True),
    ],
    ids=["empty", "another document", "noise", "cut", "busy", "lost"],
)
def test_an_answer_that_cannot_be_read_is_asked_for_again(answer: Answer) -> None:
    async def main() -> None:
        async with SmallApi() as api:
            api.on("GET", "/progress", answer, says(a_report()))
            poller, news = await polled(api, 0.5)
            assert news == ["run-1"]
            assert poller.newest("run-1") is not None

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        says("[" * 100_000),
        says({**a_report(), "noise": "x" * 100_000}),
        says(a_report(-1)),
        says({**a_report(), "metrics": {f"m{n}": 1.0 for n in range(1000)}}),
        says("", 302, {"Location": "/elsewhere"}),
    ],
    ids=["deep", "long", "negative", "many", "elsewhere"],
)
def test_whatever_a_pod_answers_the_poller_goes_on(answer: Answer) -> None:
    async def main() -> None:
        async with SmallApi() as api:
            api.on("GET", "/progress", answer, says(a_report()))
            api.on("GET", "/elsewhere", says(a_report(5)))
            poller, news = await polled(api, 0.5)
            newest = poller.newest("run-1")
            assert newest is not None
            assert newest.step == 1
            assert news == ["run-1"]

    asyncio.run(main())


def test_who_is_there_and_cannot_be_asked_is_news_once_that_is_certain() -> None:
    """As behind a NetworkPolicy: connections come to nothing."""

    async def main() -> None:
        async with SmallApi() as api:
            api.on("GET", "/progress", streams(cut=True))
            poller, news = await polled(api, 0.5)
            assert news == ["run-1"]
            assert poller.unreached("run-1") == f"http://127.0.0.1:{api.port}/progress"
            api.on("GET", "/progress", says(a_report()))
            task = asyncio.create_task(poller.run())
            await asyncio.sleep(0.3)
            task.cancel()
            assert poller.unreached("run-1") == ""

    asyncio.run(main())


@pytest.mark.parametrize("forgets", [False, True], ids=["nobody listens", "forgotten"])
def test_who_is_not_there_yet_is_only_waited_for(forgets: bool) -> None:
    async def main() -> None:
        async with SmallApi() as api:
            pass
        poller, news = await polled(api, 0.5, forgets=forgets)
        assert (poller.unreached("run-1"), news) == ("", [])

    asyncio.run(main())


def test_who_is_forgotten_is_not_asked() -> None:
    async def main() -> None:
        async with SmallApi() as api:
            await polled(api, 0.2, forgets=True)
            assert not api.requests

    asyncio.run(main())


def test_what_an_old_address_says_late_is_not_taken() -> None:
    async def main() -> None:
        async with SmallApi() as api:

            async def late(_: Any) -> Any:
                poller.watch("run-1", "127.0.0.2")
                return await says(a_report())(_)

            api.on("GET", "/progress", late)
            news: list[str] = []
            poller = Poller(30.0, news.append, api.port)
            poller.watch("run-1", "127.0.0.1")
            task = asyncio.create_task(poller.run())
            await asyncio.sleep(0.2)
            task.cancel()
            assert len(api.requests) == 1
            assert news == []
            assert poller.newest("run-1") is None

    asyncio.run(main())
