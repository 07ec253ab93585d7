"""Units are read exactly, or not at all."""

from fractions import Fraction

import pytest

from prism_trainer.rewards.units import read_unit


@pytest.mark.parametrize(
    ("text", "number", "factor", "dimension"),
    [
        pytest.param("km", 1, 1000, {"m": 1}, id="prefix"),
        pytest.param("centimeters", 1, Fraction(1, 100), {"m": 1}, id="word with prefix"),
        pytest.param("m^2", 1, 1, {"m": 2}, id="power"),
        pytest.param("cm3", 1, Fraction(1, 10**6), {"m": 3}, id="power without a caret"),
        pytest.param("square feet", 1, Fraction("0.09290304"), {"m": 2}, id="square as a word"),
        pytest.param("m/s^2", 1, 1, {"m": 1, "s": -2}, id="quotient"),
        pytest.param("m*s^-2", 1, 1, {"m": 1, "s": -2}, id="negative power"),
        pytest.param("g/cm^3", 1, 10**6, {"g": 1, "m": -3}, id="density"),
        pytest.param("million dollars", 10**6, 1, {"dollar": 1}, id="number word"),
    ],
)
def test_a_unit_is_a_multiple_of_base_units(
    text: str, number: int, factor: Fraction | int, dimension: dict[str, int]
) -> None:
    quantity = read_unit(text)
    assert quantity is not None
    assert quantity.unit is not None
    assert quantity.value == number
    assert quantity.unit.factor == factor
    assert dict(quantity.unit.dimension) == dimension
    assert quantity.unit.omissible


@pytest.mark.parametrize(
    ("text", "number"),
    [
        pytest.param("%", Fraction(1, 100), id="percent"),
        pytest.param("billion", 10**9, id="number word"),
        pytest.param("cm/m", Fraction(1, 100), id="units that cancel"),
    ],
)
def test_a_unit_without_dimension_is_a_number(text: str, number: Fraction | int) -> None:
    quantity = read_unit(text)
    assert quantity is not None
    assert (quantity.value, quantity.unit) == (number, None)


def test_a_noun_is_a_unit_of_its_own_that_must_not_be_left_out() -> None:
    quantity = read_unit("red cubes")
    assert quantity is not None
    assert quantity.unit is not None
    assert not quantity.unit.omissible


@pytest.mark.parametrize("text", ["x", "^2", "+ 1", "/2", "/m", "cm 3 x", "!", "x cm", "m/"])
def test_what_is_no_unit_is_refused(text: str) -> None:
    assert read_unit(text) is None
