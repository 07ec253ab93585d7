"""The order of rows: shuffled epochs without end, each place a draw of its own."""

from hypothesis import given
from hypothesis import strategies as st

from prism_trainer.data.sampler import draw_at

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
