"""Panels: which are drawn, what they say, what happens to ugly numbers."""

from math import inf, isnan, nan

import pytest

from prism_operator.report.artifacts import MetricPoint
from prism_operator.report.curves import (
    MOST_POINTS,
    DrawnPanel,
    draw_panels,
    panel_curves,
    running_mean,
)
from prism_operator.report.panels import PANELS
from report_builders import metrics_of


def point(step: int, phase: str = "train", **values: float) -> MetricPoint:
    return MetricPoint(step, phase, float(step), values)


def titles(panels: tuple[DrawnPanel, ...], *, main: bool = True) -> list[str]:
    return [panel.title for panel in panels if panel.main is main]


def panel_of(metric: str, phase: str = "train") -> int:
    return next(i for i, p in enumerate(PANELS) if metric in p.series and phase in p.phases)


def test_a_stage_shows_only_what_it_measured() -> None:
    assert titles(draw_panels("SFT", metrics_of("sft"))) == ["Loss", "Learning rate"]


def test_alignment_shows_the_game() -> None:
    shown = titles(draw_panels("Alignment", metrics_of("align")))
    assert {"Discriminator loss", "Discriminator gap", "Discriminator accuracy"} <= set(shown)


def test_the_learning_rates_of_policy_and_discriminator_do_not_share_an_axis() -> None:
    panels = draw_panels("Alignment", metrics_of("align"))
    assert "Learning rate" in titles(panels)
    assert "Learning rate in warm-up" in titles(panels, main=False)


def test_a_metric_that_no_panel_knows_gets_one_of_its_own() -> None:
    (panel,) = draw_panels("RLVR", [point(1, brand_new=1.0), point(2, brand_new=2.0)])
    assert (panel.title, panel.main) == ("Brand new", False)


def test_a_single_series_of_a_shared_panel_is_still_named() -> None:
    (panel,) = draw_panels("Alignment", [point(1, format_rate=0.9), point(2, format_rate=1.0)])
    assert panel.legend == ("three blocks",)


def test_warmup_lies_before_step_zero_and_training_after_it() -> None:
    metrics = [
        *(point(step, "warmup", discriminator_loss=1.0) for step in (1, 2, 3)),
        *(point(step, discriminator_loss=0.5) for step in (1, 2)),
    ]
    warmup, train = panel_curves(PANELS[panel_of("discriminator_loss")], metrics)
    assert (warmup.phase, warmup.steps) == ("warmup", (-2.0, -1.0, 0.0))
    assert (train.phase, train.steps) == ("train", (1.0, 2.0))


def test_a_figure_says_in_words_what_it_shows() -> None:
    (panel,) = draw_panels("SFT", [point(1, loss=2.5), point(9, loss=0.25)])
    label = 'aria-label="SFT, Loss by training step: loss from 2.500 to 0.250"'
    assert 'role="img"' in panel.svg
    assert label in panel.svg


def test_a_single_step_is_a_dot() -> None:
    (panel,) = draw_panels("SFT", [point(1, loss=2.5)])
    assert "<use" in panel.svg


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_values_that_are_not_finite_are_gaps(bad: float) -> None:
    metrics = [point(1, loss=1.0), point(2, loss=bad), point(3, loss=0.5)]
    (curve,) = panel_curves(PANELS[panel_of("loss")], metrics)
    assert isnan(curve.values[1])
    assert len(draw_panels("SFT", metrics)) == 1


def test_a_metric_without_any_finite_value_is_left_out() -> None:
    assert draw_panels("SFT", [point(1, loss=nan), point(2, loss=nan)]) == ()


def test_a_long_curve_is_averaged_in_blocks() -> None:
    metrics = [point(step, loss=float(step % 2)) for step in range(1, 10 * MOST_POINTS + 1)]
    (curve,) = panel_curves(PANELS[panel_of("loss")], metrics)
    assert len(curve.steps) == MOST_POINTS
    assert set(curve.values) == {0.5}
    assert curve.steps[:2] == (5.5, 15.5)


def test_the_running_mean_keeps_a_constant_and_a_slope() -> None:
    assert running_mean([2.0] * 100) == [2.0] * 100
    slope = [float(i) for i in range(100)]
    assert running_mean(slope)[10:90] == slope[10:90]


def test_the_running_mean_of_few_points_takes_the_neighbours() -> None:
    assert running_mean([0.0, 3.0, 6.0, 0.0]) == [1.5, 3.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "name", ["$x^$", "<script>alert(1)</script>", "--><b>", 'a" onload="x', "&amp;"]
)
def test_a_metric_of_any_name_is_drawn_and_escaped(name: str) -> None:
    (panel,) = draw_panels("SFT", [MetricPoint(1, "train", 0.0, {name: 1.0})])
    assert "<script" not in panel.svg
    assert 'onload="x"' not in panel.svg
    assert "<b>" not in panel.svg


def test_the_same_metrics_give_the_same_bytes() -> None:
    assert draw_panels("RLVR", metrics_of("rlvr")) == draw_panels("RLVR", metrics_of("rlvr"))
