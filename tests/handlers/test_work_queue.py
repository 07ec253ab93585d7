"""The work queue: every key is worked on after it was asked for, and never twice at once."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from prism_operator.cluster.work_queue import WorkQueue

KEYS = ("a", "b", "c")
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "get", "done"]), st.sampled_from(KEYS)), max_size=60
)


@settings(max_examples=300)
@given(STEPS)
def test_nothing_is_lost_and_nothing_is_worked_on_twice_at_once(
    steps: list[tuple[str, str]],
) -> None:
    async def main() -> None:
        queue, busy = WorkQueue(), set()
        owed: set[str] = set()
        """Asked for since their work began."""

        async def get() -> None:
            key = await asyncio.wait_for(queue.get(), 1)
            assert key not in busy
            assert key in owed
            busy.add(key)
            owed.discard(key)

        for what, key in steps:
            if what == "add":
                queue.add(key)
                owed.add(key)
            elif what == "get" and len(queue):
                await get()
            elif what == "done" and key in busy:
                busy.discard(key)
                queue.done(key)
            assert len(queue) == len(owed - busy)
        for _ in range(2):
            for key in list(busy):
                busy.discard(key)
                queue.done(key)
            while len(queue):
                await get()
        assert not owed

    asyncio.run(main())


def test_a_key_is_due_at_the_earliest_time_that_was_asked_for_and_once() -> None:
    async def main() -> None:
        queue = WorkQueue()
        clock = asyncio.create_task(queue.keep_time())
        queue.add_after("a", 30)
        queue.add_after("a", 0.02)
        queue.add_after("a", 60)
        queue.add_after("b", 0.01)
        await asyncio.sleep(0)
        assert len(queue) == 0

        first = [await asyncio.wait_for(queue.get(), 2) for _ in range(2)]

        assert first == ["b", "a"]
        queue.add_after("a", 0.01)  # while it is worked on: afterwards
        await asyncio.sleep(0.1)
        assert len(queue) == 0
        queue.done("a")
        assert await asyncio.wait_for(queue.get(), 2) == "a"
        clock.cancel()

    asyncio.run(main())


def test_a_forgotten_key_is_not_due_later() -> None:
    async def main() -> None:
        queue = WorkQueue()
        clock = asyncio.create_task(queue.keep_time())
        queue.add_after("a", 0.01)
        queue.add("b")
        assert await queue.get() == "b"
        queue.add("b")
        queue.forget("a")
        queue.forget("b")
        queue.done("b")
        await asyncio.sleep(0.1)
        assert len(queue) == 0
        clock.cancel()

    asyncio.run(main())
