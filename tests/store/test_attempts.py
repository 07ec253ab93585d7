"""The attempts among the folders of a stage."""

from hypothesis import given
from hypothesis import strategies as st

from prism_store.attempts import attempt_numbers


def test_nine_comes_before_ten() -> None:
    assert attempt_numbers(["a1", "a10", "a2", "a9"]) == [1, 2, 9, 10]


def test_what_is_no_attempt_is_left_out() -> None:
    assert attempt_numbers(["a", "a0", "a01", "a1.tmp", "b1", "aa1", "a-1", "1", "a²", ".a1"]) == []


@given(st.sets(st.integers(1, 10**6)))
def test_folders_in_any_order_give_the_numbers_in_order(numbers: set[int]) -> None:
    assert attempt_numbers(f"a{number}" for number in numbers) == sorted(numbers)
