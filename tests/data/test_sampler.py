"""The order of rows: shuffled epochs without end, each place a draw of its own."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prism_trainer.data.sampler import draw_at
from prism_trainer.engine.packing import Prompt
from prism_trainer.stages.prompts import PromptSource

SIZES, SEEDS = st.integers(1, 12), st.integers(0, 3)


@given(size=SIZES, seed=SEEDS, epoch=st.integers(0, 4))
def test_an_epoch_draws_every_row_once(size: int, seed: int, epoch: int) -> None:
    draws = [draw_at(size, seed, "x", p) for p in range(epoch * size, (epoch + 1) * size)]
    assert sorted(draw % size for draw in draws) == list(range(size))
    assert {draw // size for draw in draws} == {epoch}


@given(size=SIZES, seed=SEEDS)
def test_no_draw_comes_twice_however_often_its_row_does(size: int, seed: int) -> None:
    draws = [draw_at(size, seed, "x", position) for position in range(5 * size)]
    assert len(set(draws)) == 5 * size


def test_in_the_first_epoch_a_draw_is_its_row() -> None:
    assert sorted(draw_at(7, 0, "x", position) for position in range(7)) == list(range(7))


def test_epochs_seeds_and_purposes_have_orders_of_their_own() -> None:
    def order(seed: int, purpose: str, epoch: int) -> tuple[int, ...]:
        places = range(50 * epoch, 50 * (epoch + 1))
        return tuple(draw_at(50, seed, purpose, place) % 50 for place in places)

    orders = {order(*key) for key in [(0, "x", 0), (0, "x", 1), (0, "y", 0), (1, "x", 0)]}
    assert len(orders) == 4


class Alone:
    """One process of several, as far as a batch without over-long prompts asks."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def sum_floats(self, kept: float, dropped: float) -> tuple[float, float]:
        """That others have prompts too is all that matters."""
        return kept + 1, dropped


class Rows:
    """A data set whose rows are their numbers."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Any:
        return Numbered(index)


class Numbered:
    """A row."""

    messages = ({"role": "system", "content": ""},)

    def __init__(self, index: int) -> None:
        self.index = index


class Context:
    """What a prompt source asks of its stage."""

    def __init__(self, ranks: Alone, seed: int) -> None:
        self.ranks, self.encoder, self.config = ranks, self, self
        self.seed, self.system_message, self.stage, self.max_prompt_tokens = seed, None, self, 9

    def prompts(self, rows: list[Any]) -> list[Prompt]:
        """One token each."""
        one = np.zeros(1, dtype=np.int64)
        return [Prompt(one, np.zeros((3, 1), np.int64), one > 0) for _ in rows]


def steps_of(size: int, seed: int, world: int, batch: int, first: int, last: int) -> list[Any]:
    """What all processes together draw from one step to another, step by step, in order."""
    steps = []
    for step in range(first, last):
        draws = []
        for rank in range(world):
            context: Any = Context(Alone(rank, world), seed)
            rows: Any = Rows(size)
            mine, _ = PromptSource(context, rows).batch("x", step * batch, batch)
            assert len(mine) == batch // world, "equal shares"
            draws += [(draw.position, draw.key, draw.row.index) for draw in mine]  # type: ignore[attr-defined]
        steps.append(sorted(draws))
    return steps


@given(
    size=SIZES,
    seed=SEEDS,
    world=st.integers(1, 4),
    share=st.integers(1, 4),
    steps=st.integers(1, 6),
    data=st.data(),
)
def test_any_number_of_processes_resumed_anywhere_draws_what_one_draws(
    size: int, seed: int, world: int, share: int, steps: int, data: st.DataObject
) -> None:
    batch, stop = world * share, data.draw(st.integers(0, steps))

    alone = steps_of(size, seed, 1, batch, 0, steps)
    together = steps_of(size, seed, world, batch, 0, stop)
    together += steps_of(size, seed, world, batch, stop, steps)

    assert together == alone
    draws = [draw for step in alone for draw in step]
    assert [position for position, _, _ in draws] == list(range(steps * batch))
    assert [row for _, _, row in draws] == [key % size for _, key, _ in draws]
    for start in range(0, steps * batch - size + 1, size):
        epoch = [row for _, _, row in draws[start : start + size]]
        assert sorted(epoch) == list(range(size))


@given(size=SIZES, seed=SEEDS, one=st.integers(1, 6), other=st.integers(1, 6))
def test_the_order_does_not_depend_on_the_batch(size: int, seed: int, one: int, other: int) -> None:
    orders = []
    for batch in (one, other):
        steps = steps_of(size, seed, 1, batch, 0, 36 // batch)
        orders.append([draw for step in steps for draw in step][: 36 - 6])

    shortest = min(map(len, orders))
    assert shortest >= 30
    assert orders[0][:shortest] == orders[1][:shortest]
