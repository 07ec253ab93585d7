"""DAPO's dynamic sampling: batches of groups that teach something, and what is left over."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from prism_api.errors import DataError
from prism_trainer.distributed import Ranks


class Gradable(Protocol):
    """What can be worth training on or not."""

    @property
    def is_informative(self) -> bool:
        """Whether training on it can teach anything."""


G = TypeVar("G", bound=Gradable)


class DynamicSampling(Generic[G]):
    """Fills this process's share of every batch with informative groups."""

    def __init__(self, ranks: Ranks, batch_size: int, max_rounds: int) -> None:
        self._ranks, self._max_rounds = ranks, max_rounds
        self._share = batch_size // ranks.world_size
        self.surplus: list[G] = []
        """Groups for the next batch; never more than it takes of this process.

        So every group is trained one step after it was sampled at the latest. Without the bound, a
        process with easier prompts would hoard ever older groups: it has to sample along as long as
        any other lacks some.
        """

    def fill(self, step: int, sample: Callable[[int], list[G]]) -> tuple[list[G], list[G]]:
        """The share, and all that was sampled for it; `sample(round)` is called in all processes.

        Raises DataError, in all of them, if one still lacks groups after the last round.
        """
        kept, sampled = self.surplus, list[G]()
        for number in range(self._max_rounds):
            if not self._ranks.any(len(kept) < self._share):
                break
            fresh = sample(number)
            sampled += fresh
            kept = kept + [group for group in fresh if group.is_informative]
        self._check(step, len(kept))
        self.surplus = kept[self._share : 2 * self._share]
        return kept[: self._share], sampled

    def _check(self, step: int, kept: int) -> None:
        found, wanted = self._ranks.sum_floats(float(min(kept, self._share)), float(self._share))
        if found < wanted:
            raise DataError(
                f"step {step}: after {self._max_rounds} rounds only {found:.0f} of {wanted:.0f} "
                "prompts have right and wrong answers; the data is too easy or too hard: "
                "filter it by pass rate, or turn dynamicSampling off"
            )
