"""The small multiples of a stage: one panel per kind of metric, warm-up set apart from training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isfinite, nan

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from prism_operator.report.artifacts import MetricPoint
from prism_operator.report.panels import PANELS, Panel
from prism_operator.report.svg import BAND, MUTED, SERIES, draw
from prism_operator.report.text import number

PANEL_INCHES = (3.5, 1.9)

MOST_POINTS = 300
"""Longer curves are averaged in blocks down to so many points; a page must stay light."""

SMOOTH_FROM = 60
"""From so many points on, a running mean is drawn over the pale measured curve."""


@dataclass(frozen=True)
class Curve:
    """One metric in one phase; beside training, warm-up steps are counted backwards from 0."""

    metric: str
    phase: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class DrawnPanel:
    """A panel as the page shows it."""

    title: str
    legend: tuple[str, ...]
    """Names of the series in the order of their colours; empty where the title says it all."""
    main: bool
    svg: Markup


def draw_panels(stage: str, metrics: Sequence[MetricPoint]) -> tuple[DrawnPanel, ...]:
    """The panels of which the stage measured something; metrics without a panel get one each."""
    return tuple(
        _draw(stage, panel, curves)
        for panel in (*PANELS, *_other_panels(metrics))
        if (curves := panel_curves(panel, metrics))
    )


def _other_panels(metrics: Sequence[MetricPoint]) -> Iterator[Panel]:
    known = {metric for panel in PANELS for metric in panel.series}
    found = dict.fromkeys(metric for point in metrics for metric in point.values)
    for metric in found:
        if metric not in known:
            yield Panel(metric.replace("_", " ").capitalize(), {metric: metric}, main=False)


def panel_curves(panel: Panel, metrics: Sequence[MetricPoint]) -> tuple[Curve, ...]:
    """One curve per metric and phase that was measured, short enough to be drawn."""
    return tuple(_curves(panel, metrics))


def _curves(panel: Panel, metrics: Sequence[MetricPoint]) -> Iterator[Curve]:
    for metric in panel.series:
        for phase in panel.phases:
            shift = _warmup_steps(metrics) if phase == "warmup" and len(panel.phases) > 1 else 0
            points = [p for p in metrics if p.phase == phase and metric in p.values]
            if any(isfinite(point.values[metric]) for point in points):
                steps = [float(point.step - shift) for point in points]
                values = [_finite(point.values[metric]) for point in points]
                yield Curve(metric, phase, *_thinned(steps, values))


def _warmup_steps(metrics: Sequence[MetricPoint]) -> int:
    return max((point.step for point in metrics if point.phase == "warmup"), default=0)


def _finite(value: float) -> float:
    # An infinite value would take the whole axis; a gap shows it as well.
    return value if isfinite(value) else nan


def _thinned(
    steps: Sequence[float], values: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    block = ceil(len(steps) / MOST_POINTS)
    starts = range(0, len(steps), block)
    return (
        tuple(_mean(steps[start : start + block]) for start in starts),
        tuple(_mean(values[start : start + block]) for start in starts),
    )


def _mean(values: Sequence[float]) -> float:
    present = [value for value in values if isfinite(value)]
    return sum(present) / len(present) if present else nan


def running_mean(values: Sequence[float]) -> list[float]:
    """The mean over a window of about a twentieth of the curve, shorter at its ends."""
    reach = max(1, len(values) // 40)
    return [_mean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]


def _draw(stage: str, panel: Panel, curves: Sequence[Curve]) -> DrawnPanel:
    present = list(dict.fromkeys(curve.metric for curve in curves))
    legend = tuple(panel.series[metric] for metric in present) if len(panel.series) > 1 else ()
    description = _describe(stage, panel, curves)
    svg = draw(PANEL_INCHES, description, lambda axes: _paint(axes, panel, curves))
    return DrawnPanel(panel.title, legend, panel.main, svg)


def _paint(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> None:
    order = list(dict.fromkeys(curve.metric for curve in curves))
    for curve in curves:
        colour = SERIES[order.index(curve.metric) % len(SERIES)]
        _paint_curve(axes, curve, colour, smooth=not panel.exact)
    first = min(curve.steps[0] for curve in curves)
    if first < 0:
        axes.axvspan(first, 0, color=BAND, linewidth=0, zorder=0)
    if panel.reference is not None:
        axes.axhline(panel.reference, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    _paint_axes(axes, panel)


def _paint_curve(axes: Axes, curve: Curve, colour: str, *, smooth: bool) -> None:
    dashes = "--" if curve.phase == "warmup" else "-"
    if len(curve.steps) == 1:
        axes.plot(curve.steps, curve.values, marker="o", markersize=3.5, color=colour)
    elif not smooth or len(curve.steps) < SMOOTH_FROM:
        axes.plot(curve.steps, curve.values, dashes, color=colour)
    else:
        axes.plot(curve.steps, curve.values, "-", color=colour, alpha=0.3, linewidth=0.7)
        axes.plot(curve.steps, running_mean(curve.values), dashes, color=colour)


def _paint_axes(axes: Axes, panel: Panel) -> None:
    axes.set_xlabel("step", labelpad=1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(_step_label))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    if panel.exact:
        axes.set_ylim(bottom=0)
    if panel.unit == "rate":
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.03), min(high, 1.03))
        axes.yaxis.set_major_formatter(FuncFormatter(_rate_label))
    else:
        axes.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=False)


def _rate_label(rate: float, _: int | None) -> str:
    return f"{100 * rate:.3g} %"


def _step_label(step: float, _: int | None) -> str:
    # Warm-up lies before 0; the page says how long it was, and negative steps would only puzzle.
    return f"{step:.0f}" if step >= 0 and step == round(step) else ""


def _describe(stage: str, panel: Panel, curves: Sequence[Curve]) -> str:
    parts = [
        f"{panel.series[curve.metric]}{' in warm-up' if curve.phase == 'warmup' else ''}"
        f" from {number(curve.values[0])} to {number(curve.values[-1])}"
        for curve in curves
    ]
    return f"{stage}, {panel.title} by training step: {'; '.join(parts)}"
