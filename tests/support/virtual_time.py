"""An event loop whose time passes only when everybody waits: hours of it in milliseconds."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Moves its time on by what it was to wait for."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; nothing is ever waited for."""
        assert timeout is not None, "everybody waits for somebody else, for ever"
        self.now += max(0.0, timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Seconds since the beginning, of virtual time."""
        return self._virtual.now


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """What `main` returns; `asyncio.get_running_loop().time()` is its clock."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
