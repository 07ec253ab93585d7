"""The headline figure: whatever the figures are, they can be read."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from prism_api.names import STAGE_ORDER, StageKind
from prism_operator.report.accuracy_path import (
    OFFSET,
    SIZE_INCHES,
    accuracy_ticks,
    draw_accuracy_path,
    evaluated,
    label_side,
    paint_accuracy_path,
)
from prism_operator.report.artifacts import RunArtifacts, StageArtifacts
from prism_operator.report.summary import Summary, summarise
from prism_operator.report.svg import draw
from report_builders import HELDOUT, UID, a_stage, a_summary, an_evaluation

DOT_POINTS = 6


def measured(correct: Sequence[int], captions: Sequence[float | None]) -> Summary:
    """A run with those right answers and caption accuracies after its stages."""
    stages = {
        kind: a_stage(kind, evaluation=an_evaluation(count, caption_accuracy=caption))
        for kind, count, caption in zip(STAGE_ORDER, correct, captions, strict=True)
    }
    return summarise(RunArtifacts("run", UID, 0, stages))


def painted(summary: Summary) -> Axes:
    """The figure, laid out."""
    kept: list[Axes] = []

    def paint(axes: Axes) -> None:
        paint_accuracy_path(axes, evaluated(summary))
        kept.append(axes)

    draw(SIZE_INCHES, "", paint)
    return kept[0]


def dot(axes: Axes, place: float, rate: float) -> Bbox:
    """The box of a dot, in pixels."""
    x, y = axes.transData.transform((place, rate))
    half = DOT_POINTS / 2 * axes.figure.dpi / 72
    return Bbox([[x - half, y - half], [x + half, y + half]])


rates = st.integers(0, HELDOUT)
captions = st.none() | st.floats(0, 1)


@settings(max_examples=40, deadline=None)
@given(st.tuples(rates, rates, rates), st.tuples(captions, captions, captions))
def test_no_figure_stands_on_a_dot_a_name_of_a_stage_or_another_figure(
    correct: Sequence[int], captions: Sequence[float | None]
) -> None:
    axes = painted(measured(correct, captions))
    figure = axes.get_figure(root=True)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    names = [label.get_window_extent(renderer) for label in axes.get_xticklabels()]
    labels = [text.get_window_extent(renderer) for text in axes.texts]
    dots = [dot(axes, i - OFFSET, count / HELDOUT) for i, count in enumerate(correct)]
    dots += [dot(axes, i + OFFSET, rate) for i, rate in enumerate(captions) if rate is not None]

    assert len(labels) == len(names) == 3
    for index, label in enumerate(labels):
        others = [*names, *dots, *labels[:index], *labels[index + 1 :]]
        assert not any(label.overlaps(other) for other in others)
        assert axes.figure.bbox.containsx(label.x0)
        assert axes.figure.bbox.containsy(label.y1)


@pytest.mark.parametrize(
    ("before", "after", "caption", "side"),
    [
        (0.2, 0.8, 0.9, (1, -1)),
        (0.2, 0.3, 0.4, (1, 1)),
        (0.2, 0.8, 0.4, (-1, 1)),
        (0.9, 0.8, 0.4, (-1, -1)),
        (None, None, None, (1, -1)),
    ],
)
def test_a_figure_stands_where_neither_a_line_nor_a_caption_dot_is(
    before: float | None, after: float | None, caption: float | None, side: tuple[int, int]
) -> None:
    assert label_side(0.5, before, after, caption) == side


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.4, 0.5, 0.8, 0.9])
def test_ticks_are_whole_percentages(floor: float) -> None:
    ticks = accuracy_ticks(floor)

    assert 3 <= len(ticks) <= 9
    assert ticks[-1] == pytest.approx(1.0)
    assert min(ticks) >= floor - 1e-9
    assert [100 * tick for tick in ticks] == pytest.approx([round(100 * tick) for tick in ticks])


def test_without_an_evaluation_there_is_no_figure() -> None:
    stages: dict[StageKind, StageArtifacts] = {"sft": a_stage("sft", evaluation=None)}

    assert draw_accuracy_path(summarise(RunArtifacts("run", UID, 0, stages))) is None
    assert draw_accuracy_path(a_summary()) is not None
