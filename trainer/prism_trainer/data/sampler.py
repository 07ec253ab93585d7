"""The order in which rows are used: shuffled epochs, a pure function of seed and position."""

from functools import lru_cache

from prism_trainer.engine.packing import Tokens
from prism_trainer.seeds import numpy_generator


@lru_cache(maxsize=4)
def _epoch(size: int, seed: int, purpose: str, epoch: int) -> Tokens:
    return numpy_generator(seed, purpose, "epoch", epoch).permutation(size)


def rows_at(size: int, seed: int, purpose: str, position: int, count: int) -> list[int]:
    """Rows `position` to `position + count` of an endless sequence of shuffled epochs.

    Needs no state: a resumed stage continues at the position that its step implies.
    """
    places = range(position, position + count)
    return [int(_epoch(size, seed, purpose, p // size)[p % size]) for p in places]
