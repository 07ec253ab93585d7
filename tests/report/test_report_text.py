"""Figures in words."""

import pytest

from prism_operator.report.text import (
    byte_size,
    duration,
    number,
    percent,
    percent_range,
    points,
)


@pytest.mark.parametrize(
    ("rate", "text"), [(0.0, "0.0 %"), (0.5586, "55.9 %"), (1.0, "100.0 %"), (None, "-")]
)
def test_a_rate_reads_as_a_percentage(rate: float | None, text: str) -> None:
    assert percent(rate) == text


@pytest.mark.parametrize(
    ("interval", "text"),
    [((0.523, 0.5938), "52.3 - 59.4 %"), ((0, 1), "0.0 - 100.0 %"), (None, "-")],
)
def test_an_interval_names_the_unit_once(interval: tuple[float, float] | None, text: str) -> None:
    assert percent_range(interval) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(0.5, 0.75, "+25.0"), (0.75, 0.5, "-25.0"), (None, 0.5, "-"), (0.5, None, "-")],
)
def test_a_gain_is_signed_and_needs_both_rates(
    before: float | None, after: float | None, text: str
) -> None:
    assert points(before, after) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.4, "59:59"), (3600, "1:00:00"), (-3, "0:00")],
)
def test_a_duration_shows_hours_only_when_there_are_any(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1.5 * 2**30, "1.5 GiB"),
        (2**42, "4096.0 GiB"),
    ],
)
def test_a_size_takes_the_largest_unit_that_fits(count: float, text: str) -> None:
    assert byte_size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.4312, "0.431"),
        (-999.9, "-999.900"),
        (21000.4, "21000"),
        (3e-5, "3.0e-05"),
        (2.5e7, "2.5e+07"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_a_measured_value_stays_short_at_every_scale(value: float, text: str) -> None:
    assert number(value) == text
    assert len(text) <= 9
