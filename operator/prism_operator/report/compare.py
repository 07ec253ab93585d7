"""Several runs beside each other: a table for the terminal and a plot. `prism compare` calls it."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich import box
from rich.table import Table
from rich.text import Text

from prism_api.errors import FieldProblem, SpecError
from prism_api.names import STAGE_ORDER, StageKind
from prism_operator.report.accuracy_path import accuracy_floor, accuracy_ticks, evaluated
from prism_operator.report.files import replace_file
from prism_operator.report.summary import StageSummary, Summary
from prism_operator.report.text import ABSENT, STAGE_LABELS, duration, percent

SPREAD = 0.44
"""How much of the room of one stage the runs share."""

_MARKERS = "osD^vPX*"
_COLOURS = ("#0b5fa5", "#c25000", "#0a7350", "#7a3fa0", "#b3261e", "#5b5f66", "#8a6d00", "#0088a3")


def compare(summaries: Mapping[str, Summary]) -> Table:
    """One row per run: accuracy in percent after each stage over its interval, captions, time."""
    kinds = stages_of(summaries)
    table = Table(
        box=box.SIMPLE_HEAD,
        show_lines=True,
        pad_edge=False,
        caption="Held-out accuracy in %, below it the 95 % interval; captions: after all stages.",
        caption_justify="left",
    )
    table.add_column("run", overflow="fold")
    labels = [STAGE_LABELS[kind] for kind in kinds]
    for heading in (*labels, "captions", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, summary in summaries.items():
        table.add_row(_run_cell(label, summary), *_cells(summary, kinds))
    return table


def stages_of(summaries: Mapping[str, Summary]) -> tuple[StageKind, ...]:
    """The stages that any of the runs has, in order."""
    return tuple(k for k in STAGE_ORDER if any(k in s.stages for s in summaries.values()))


def _run_cell(label: str, summary: Summary) -> Text:
    # Below the name and not in columns of their own, so that the table fits 80 characters.
    steps = sum(stage.steps for stage in summary.stages.values())
    return Text(label).append(f"\nseed {summary.seed}, {steps} steps", style="dim")


def _cells(summary: Summary, kinds: Sequence[StageKind]) -> list[str]:
    stages = list(summary.ordered.values())
    captions = [s.caption_accuracy for s in stages if s.caption_accuracy is not None]
    return [
        *(_accuracy_cell(summary.stages.get(kind)) for kind in kinds),
        percent(captions[-1] if captions else None),
        duration(summary.wall_seconds),
    ]


def _accuracy_cell(stage: StageSummary | None) -> str:
    if stage is None or stage.accuracy is None or stage.accuracy_ci95 is None:
        return ABSENT
    low, high = stage.accuracy_ci95
    return f"{100 * stage.accuracy:.1f}\n{100 * low:.1f} - {100 * high:.1f}"


def plot_comparison(summaries: Mapping[str, Summary], path: Path) -> None:
    """Write the accuracy after each stage of every run as PNG or SVG, by the path's suffix."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        remedy = "end its name with .png or .svg"
        raise SpecError([FieldProblem(str(path), "is neither a PNG nor an SVG file", remedy)])
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "prism", "text.parse_math": False, "font.size": 10.0}):
        figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="white")
        _paint(figure.add_subplot(), summaries)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    replace_file(path, buffer.getvalue())


def _paint(axes: Axes, summaries: Mapping[str, Summary]) -> None:
    kinds = stages_of(summaries)
    lows: list[float] = []
    for index, (label, summary) in enumerate(summaries.items()):
        stages = evaluated(summary)
        shift = SPREAD * ((index + 0.5) / len(summaries) - 0.5)
        places = [kinds.index(kind) + shift for kind in stages]
        _paint_run(axes, index, label, places, list(stages.values()))
        lows += [stage.accuracy_ci95[0] for stage in stages.values() if stage.accuracy_ci95]
    floor = accuracy_floor(lows)
    axes.set_ylim(floor, 1.01)
    axes.set_yticks(accuracy_ticks(floor))
    axes.set_xlim(-0.5, max(len(kinds), 1) - 0.5)
    axes.set_xticks(range(len(kinds)), [f"after {STAGE_LABELS[kind]}" for kind in kinds])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_ylabel("held-out accuracy, 95 % interval")
    axes.grid(axis="y", color="#dfe3e8", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _paint_run(
    axes: Axes, index: int, label: str, places: Sequence[float], stages: Sequence[StageSummary]
) -> None:
    values = [stage.accuracy or 0.0 for stage in stages]
    intervals = [stage.accuracy_ci95 or (v, v) for v, stage in zip(values, stages, strict=True)]
    below = [max(0.0, v - low) for v, (low, _) in zip(values, intervals, strict=True)]
    above = [max(0.0, high - v) for v, (_, high) in zip(values, intervals, strict=True)]
    axes.errorbar(
        places,
        values,
        (below, above),
        # A label that starts with an underscore would be left out of the legend.
        label=f" {label}",
        fmt=f"{_MARKERS[index % len(_MARKERS)]}-",
        color=_COLOURS[index % len(_COLOURS)],
        linewidth=0.9,
        elinewidth=1.4,
        capsize=3,
        markersize=6,
    )
