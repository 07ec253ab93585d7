"""Several runs beside each other."""

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from prism_api.errors import SpecError
from prism_operator.report.accuracy_path import accuracy_floor
from prism_operator.report.artifacts import RunArtifacts
from prism_operator.report.compare import compare, plot_comparison, stages_of
from prism_operator.report.summary import Summary, summarise
from report_builders import UID, a_stage, a_summary

BASELINE = a_summary(("sft", "rlvr"), name="baseline")
UNMEASURED = summarise(RunArtifacts("u", UID, 3, {"sft": a_stage("sft", evaluation=None)}))
SUMMARIES = {"runs/quickstart": a_summary(), "runs/base": BASELINE, "runs/[bold]u": UNMEASURED}


def printed(summaries: dict[str, Summary], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(compare(summaries))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_run_has_its_accuracy_over_its_interval() -> None:
    text = printed({"a": a_summary()})
    figures = [line.split() for line in text.splitlines() if "." in line]
    assert figures[0] == ["a", "55.9", "79.6", "91.4", "95.1", "%", "6:51"]
    assert "52.3 - 59.3   76.6 - 82.3   89.2 - 93.2" in text


def test_the_table_fits_a_terminal_of_eighty_columns() -> None:
    text = printed(SUMMARIES)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_a_stage_that_a_run_did_not_have_or_measure_is_a_dash() -> None:
    text = printed(SUMMARIES)
    (baseline,) = [line for line in text.splitlines() if line.lstrip().startswith("runs/base")]
    assert baseline.split()[1:4] == ["55.9", "-", "91.4"]
    (unmeasured,) = [line for line in text.splitlines() if "runs/[bold]u" in line]
    assert unmeasured.split()[1:5] == ["-", "-", "-", "-"]


def test_seed_and_steps_stand_below_the_name() -> None:
    assert "seed 0, 520 steps" in printed({"a": BASELINE})


def test_stages_that_no_run_has_are_no_column() -> None:
    assert stages_of({"a": BASELINE}) == ("sft", "rlvr")
    assert "Alignment" not in printed({"a": BASELINE})


def test_the_plot_is_a_png_by_its_name(tmp_path: Path) -> None:
    plot_comparison(SUMMARIES, tmp_path / "plot.PNG")
    with Image.open(tmp_path / "plot.PNG") as image:
        assert image.format == "PNG"
        assert image.width > 1000


def test_the_plot_is_an_svg_by_its_name_and_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        plot_comparison(SUMMARIES, tmp_path / name)
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_runs_that_were_never_evaluated_can_be_plotted(tmp_path: Path) -> None:
    plot_comparison({"u": UNMEASURED}, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").exists()


@pytest.mark.parametrize("name", ["plot.pdf", "plot"])
def test_another_kind_of_plot_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match=r"neither a PNG nor an SVG.*\.png or \.svg"):
        plot_comparison(SUMMARIES, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("lows", "floor"), [([0.523, 0.8], 0.4), ([0.91], 0.8), ([0.02], 0.0), ([], 0.0)]
)
def test_the_accuracy_axis_starts_a_little_below_what_is_shown(
    lows: list[float], floor: float
) -> None:
    assert accuracy_floor(lows) == floor
