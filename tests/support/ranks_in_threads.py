"""Several processes of a stage as threads of this one: the same exchanges, without torchrun.

For what depends on who has how much; that real processes agree is `stages/test_ranks`.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from prism_trainer.distributed import Ranks

T = TypeVar("T")
_TIMEOUT_SECONDS = 60.0


class Exchange:
    """Where everybody leaves a value and takes those of all."""

    def __init__(self, size: int) -> None:
        self._values: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=_TIMEOUT_SECONDS)

    def all_values(self, rank: int, value: Any) -> list[Any]:
        """The values of all, in rank order."""
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values

    def leave(self) -> None:
        """Whoever waits for this one fails."""
        self._barrier.abort()


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """One of several threads that believe to be processes."""

    exchange: Exchange = field(default_factory=lambda: Exchange(1))

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over all threads, in place."""
        return tensor.copy_(torch.stack(self.gather(tensor.clone())).sum(0))

    def gather(self, value: T) -> list[T]:
        """The value of every thread."""
        return self.exchange.all_values(self.rank, value)


def on_every_rank(size: int, work: Callable[[Ranks], T]) -> list[T]:
    """What `work` returns in each of `size` threads; raises what the first of them raised."""
    exchange = Exchange(size)

    def of_rank(rank: int) -> T:
        try:
            return work(ThreadRanks(rank, size, exchange=exchange))
        except BaseException:
            exchange.leave()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(of_rank, rank) for rank in range(size)]
    errors = [future.exception() for future in futures]
    reasons = [e for e in errors if e and not isinstance(e, threading.BrokenBarrierError)]
    for error in [*reasons, *(e for e in errors if e)]:
        raise error
    return [future.result() for future in futures]
