"""The headline figure: held-out accuracy after each stage, with its interval."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from prism_api.names import StageKind
from prism_operator.report.summary import StageSummary, Summary
from prism_operator.report.svg import INK, SERIES, draw
from prism_operator.report.text import STAGE_LABELS, percent, percent_range

SIZE_INCHES = (6.4, 2.7)
OFFSET = 0.06
"""Caption dots stand beside the accuracy dots, so that neither hides the other."""
LABEL_ROOM, DOT_ROOM = 0.13, 0.04
"""Shares of the accuracy axis: below its lowest figure for a label, above 100 % for a dot."""


def draw_accuracy_path(summary: Summary) -> Markup | None:
    """Dots with intervals from stage to stage; None where nothing was evaluated."""
    stages = evaluated(summary)
    if not stages:
        return None
    return draw(SIZE_INCHES, _describe(stages), lambda axes: paint_accuracy_path(axes, stages))


def evaluated(summary: Summary) -> dict[StageKind, StageSummary]:
    """The stages whose accuracy was measured."""
    return {k: stage for k, stage in summary.ordered.items() if stage.accuracy is not None}


def accuracy_floor(lows: Sequence[float]) -> float:
    """Where the accuracy axis starts: the full ten per cent below the lowest thing shown."""
    return max(0.0, (int(10 * min(lows)) - 1) / 10) if lows else 0.0


def accuracy_ticks(floor: float) -> list[float]:
    """Whole percentages from there up to 100."""
    ticks = MaxNLocator(nbins=8, steps=[1, 2, 5, 10]).tick_values(floor, 1.0)
    return [tick for tick in ticks if floor - 1e-9 <= tick <= 1 + 1e-9]


def paint_accuracy_path(axes: Axes, stages: Mapping[StageKind, StageSummary]) -> None:
    """Paint those stages, whose accuracy was measured."""
    accuracies = [stage.accuracy or 0.0 for stage in stages.values()]
    intervals = [stage.accuracy_ci95 or (0.0, 1.0) for stage in stages.values()]
    places = [index - OFFSET for index in range(len(stages))]
    errors = _errors(accuracies, intervals)
    axes.errorbar(
        places, accuracies, errors, fmt="o-", color=SERIES[0], capsize=4, markersize=6, linewidth=1
    )
    captions = [stage.caption_accuracy for stage in stages.values()]
    befores, afters = [None, *accuracies[:-1]], [*accuracies[1:], None]
    for place, accuracy, *around in zip(places, accuracies, befores, afters, captions, strict=True):
        _paint_label(axes, (place, accuracy), label_side(accuracy, *around))
    _paint_captions(axes, captions)
    _paint_axes(axes, stages)


def label_side(
    accuracy: float, before: float | None, after: float | None, caption: float | None
) -> tuple[int, int]:
    """Where the label of a dot stands: 1 or -1 for right or left, and for above or below.

    Right of the dot, on the side that the line to the next one leaves free; left of it if the
    caption dot is there, on the side that the line from the previous one leaves free.
    """
    right = 1 if after is not None and after < accuracy else -1
    if caption is None or (accuracy - caption) * right >= 0:
        return 1, right
    return -1, -1 if before is not None and before > accuracy else 1


def _paint_label(axes: Axes, dot: tuple[float, float], side: tuple[int, int]) -> None:
    axes.annotate(
        percent(dot[1]),
        dot,
        (9 * side[0], 10 * side[1]),
        textcoords="offset points",
        ha="left" if side[0] > 0 else "right",
        va="center",
        fontsize=10,
        fontweight="bold",
        color=INK,
    )


def _paint_captions(axes: Axes, rates: Sequence[float | None]) -> None:
    shown = [(index + OFFSET, rate) for index, rate in enumerate(rates) if rate is not None]
    if shown:
        places, values = zip(*shown, strict=True)
        axes.plot(places, values, "s:", color=SERIES[1], markerfacecolor="none", linewidth=0.8)


def _paint_axes(axes: Axes, stages: Mapping[StageKind, StageSummary]) -> None:
    lows = [stage.accuracy_ci95[0] for stage in stages.values() if stage.accuracy_ci95]
    lows += [s.caption_accuracy for s in stages.values() if s.caption_accuracy is not None]
    floor = accuracy_floor(lows)
    axes.set_ylim(floor - LABEL_ROOM * (1 - floor), 1 + DOT_ROOM * (1 - floor))
    axes.set_yticks(accuracy_ticks(floor))
    axes.set_xlim(-0.5, len(stages) - 0.5)
    axes.set_xticks(range(len(stages)), [f"after {STAGE_LABELS[kind]}" for kind in stages])
    axes.tick_params(axis="x", labelsize=10, length=0)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def _errors(
    values: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    pairs = list(zip(values, intervals, strict=True))
    below = [max(0.0, value - low) for value, (low, _) in pairs]
    above = [max(0.0, high - value) for value, (_, high) in pairs]
    return below, above


def _describe(stages: Mapping[StageKind, StageSummary]) -> str:
    parts = [
        f"{STAGE_LABELS[kind]} {percent(stage.accuracy)}"
        f" (95 % interval {percent_range(stage.accuracy_ci95)})"
        + (
            f", captions {percent(stage.caption_accuracy)}"
            if stage.caption_accuracy is not None
            else ""
        )
        for kind, stage in stages.items()
    ]
    return f"Held-out accuracy after each stage: {'; '.join(parts)}"
