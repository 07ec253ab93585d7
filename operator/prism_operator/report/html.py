"""report.html: one file that needs nothing from anywhere, and report.json beside it.

Model output is untrusted text: the template escapes everything but the figures drawn here, and the
page forbids itself scripts and requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from prism_api.names import StageKind
from prism_operator.report.accuracy_path import draw_accuracy_path, evaluated
from prism_operator.report.artifacts import RunArtifacts, StageArtifacts
from prism_operator.report.curves import DrawnPanel, draw_panels
from prism_operator.report.files import replace_file
from prism_operator.report.responses import collect_questions
from prism_operator.report.summary import REPORT_FILE, StageSummary, Summary, summarise
from prism_operator.report.text import (
    STAGE_LABELS,
    byte_size,
    duration,
    percent,
    percent_range,
    points,
)

PAGE_FILE = "report.html"
TEMPLATE_FILE = "template.html.jinja"

QUESTIONS_AT_ONCE = 6
"""Further questions are folded away."""


@dataclass(frozen=True)
class StageView:
    """One stage as the page shows it."""

    kind: StageKind
    figures: StageSummary
    gain: str
    """Points over the evaluated stage before."""
    panels: tuple[DrawnPanel, ...]
    warmup_steps: int
    damaged_lines: int
    right: int
    """Of the sampled questions."""
    asked: int


def write_report(run: RunArtifacts, run_yaml: str, folder: Path) -> Path:
    """Write report.json and report.html, each in one step; returns the page's path."""
    summary = summarise(run)
    page = render_report(run, summary, run_yaml)
    replace_file(folder / REPORT_FILE, summary.to_json().encode())
    replace_file(folder / PAGE_FILE, page.encode())
    return folder / PAGE_FILE


def render_report(run: RunArtifacts, summary: Summary, run_yaml: str) -> str:
    """The page as text."""
    questions = collect_questions(run.stages)
    return (
        _environment()
        .from_string(files(__package__).joinpath(TEMPLATE_FILE).read_text(encoding="utf-8"))
        .render(
            summary=summary,
            headline=_headline(summary),
            accuracy_path=draw_accuracy_path(summary),
            stages=_stage_views(run.stages, summary),
            questions=questions[:QUESTIONS_AT_ONCE],
            more_questions=questions[QUESTIONS_AT_ONCE:],
            run_yaml=run_yaml,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "percent_range": percent_range,
        "duration": duration,
        "byte_size": byte_size,
        "stage_label": STAGE_LABELS.__getitem__,
    }
    return environment


def _headline(summary: Summary) -> Markup | str:
    """The accuracy path in words."""
    stages = evaluated(summary)
    if not stages:
        return "This run was not evaluated."
    steps = [f"{STAGE_LABELS[kind]} {percent(stage.accuracy)}" for kind, stage in stages.items()]
    return f"Held-out accuracy: {' → '.join(steps)}"


def _stage_views(
    stages: Mapping[StageKind, StageArtifacts], summary: Summary
) -> Sequence[StageView]:
    views: list[StageView] = []
    before: float | None = None
    for kind, figures in summary.ordered.items():
        views.append(_stage_view(kind, figures, points(before, figures.accuracy), stages[kind]))
        before = figures.accuracy if figures.accuracy is not None else before
    return views


def _stage_view(
    kind: StageKind, figures: StageSummary, gain: str, artifacts: StageArtifacts
) -> StageView:
    warmup = [point.step for point in artifacts.metrics if point.phase == "warmup"]
    return StageView(
        kind=kind,
        figures=figures,
        gain=gain,
        panels=draw_panels(STAGE_LABELS[kind], artifacts.metrics),
        warmup_steps=max(warmup, default=0),
        damaged_lines=artifacts.damaged_lines,
        right=sum(sample.correct for sample in artifacts.samples),
        asked=len(artifacts.samples),
    )
