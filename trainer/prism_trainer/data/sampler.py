"""The order in which rows are used: shuffled epochs, a pure function of seed and position."""

from functools import lru_cache

from prism_trainer.engine.packing import Tokens
from prism_trainer.seeds import numpy_generator


@lru_cache(maxsize=4)
def _epoch(size: int, seed: int, purpose: str, epoch: int) -> Tokens:
    return numpy_generator(seed, purpose, "epoch", epoch).permutation(size)


def draw_at(size: int, seed: int, purpose: str, position: int) -> int:
    """Which draw stands at a position of an endless sequence of shuffled epochs.

    A draw is a row of an epoch: row + size x epoch. So `draw % size` is the row, and no draw comes
    twice, which lets it key randomness where one batch holds a row again. Needs no state: a resumed
    stage continues at the position that its step implies.
    """
    epoch, place = divmod(position, size)
    return size * epoch + int(_epoch(size, seed, purpose, epoch)[place])
