"""report.html: self-contained, safe, accessible, and it says what the run reached."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from power_cut import watched
from prism_api.errors import StoreError
from prism_api.names import STAGE_ORDER
from prism_operator.report.artifacts import RunArtifacts, Sample, StageArtifacts
from prism_operator.report.files import replace_file
from prism_operator.report.html import render_report, write_report
from prism_operator.report.summary import read_summary, summarise
from report_builders import UID, a_result, a_run, a_stage

Attributes = dict[str, str | None]

RUN_YAML = "apiVersion: prism.dev/v1alpha1\nspec:\n  note: '<b>&'\n"


QUIET_RUN = RunArtifacts(
    "quiet", UID, 0, {kind: StageArtifacts(a_result(kind)) for kind in STAGE_ORDER}
)
"""Without curves, which take the time."""


class Page(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Attributes]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[Attributes]:
        return [attributes for name, attributes in self.elements if name == tag]


def render(run: RunArtifacts, run_yaml: str = RUN_YAML) -> str:
    return render_report(run, summarise(run), run_yaml)


@pytest.fixture(scope="module")
def html() -> str:
    return render(a_run())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_starts_with_the_path_of_the_accuracy(page: Page) -> None:
    assert "SFT 55.9 % → Alignment 79.6 % → RLVR 91.4 %" in page.text


def test_the_page_asks_nobody_for_anything(html: str, page: Page) -> None:
    links = [
        v for _, a in page.elements for k, v in a.items() if k in ("src", "href", "xlink:href")
    ]
    assert links
    assert all(link is not None and link.startswith(("data:image/png", "#")) for link in links)
    assert not re.search(r"url\((?!#)|@import", html)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.elements)


def test_the_page_forbids_itself_scripts_and_requests(page: Page) -> None:
    policies = [a["content"] for a in page.all("meta") if a.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_ids_are_unique_and_every_reference_has_its_target(html: str, page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    targets = re.findall(r"url\(#([^)]+)\)", html) + re.findall(r'href="#([^"]+)"', html)
    assert targets
    assert set(targets) <= set(ids)


def test_pictures_and_figures_have_words_for_those_who_cannot_see_them(page: Page) -> None:
    assert all(a.get("alt") for a in page.all("img"))
    figures = page.all("svg")
    assert len(figures) > 15
    assert all(a.get("role") == "img" and a.get("aria-label") for a in figures)


def test_figures_take_their_colours_from_the_page(html: str) -> None:
    assert "var(--series-1)" in html
    assert not re.search(r"#0102\d\d", html)
    assert "prefers-color-scheme: dark" in html


def test_right_and_wrong_are_told_in_words(page: Page) -> None:
    assert page.text.count("✓ right") + page.text.count("✗ wrong") == 30
    assert "SFT 4 of 10, Alignment 9 of 10, RLVR 10 of 10." in " ".join(page.text.split())


def test_warmup_is_told_apart(page: Page) -> None:
    assert "the 40 steps of the discriminator's warm-up" in page.text
    assert "+ 40 warm-up" in page.text


def test_the_resolved_run_is_folded_in_as_it_is(page: Page) -> None:
    assert RUN_YAML in page.text
    assert page.all("details")


HOSTILE = "</pre><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}-->"


def test_hostile_model_output_stays_text() -> None:
    sample = Sample(HOSTILE, HOSTILE, f"<answer>{HOSTILE}</answer>{HOSTILE}", HOSTILE, False)
    sample = replace(sample, image_png_base64=HOSTILE, reference_caption=HOSTILE)
    stage = StageArtifacts(a_result("sft"), samples=(sample,))
    page = Page(render(RunArtifacts(HOSTILE, UID, 0, {"sft": stage}), HOSTILE))
    assert not page.all("script")
    assert not page.all("img")
    assert page.text.count(HOSTILE) >= 6


def test_a_run_that_was_not_evaluated_says_so() -> None:
    page = Page(render(RunArtifacts("r", UID, 0, {"sft": a_stage("sft", evaluation=None)})))
    assert "This run was not evaluated." in page.text
    assert "held-out questions" not in page.text


def test_a_stage_that_left_no_metrics_and_no_samples_is_still_in_the_table() -> None:
    run = RunArtifacts("r", UID, 0, {"rlvr": StageArtifacts(a_result("rlvr"), damaged_lines=2)})
    page = Page(render(run))
    assert "No metrics were recorded." in page.text
    assert "2 line(s) of metrics.jsonl could not be read" in page.text
    assert "The same questions" not in page.text


def test_the_gain_skips_a_stage_that_was_not_evaluated() -> None:
    stages = dict(QUIET_RUN.stages)
    stages["align"] = StageArtifacts(a_result("align", evaluation=None))
    page = Page(render(replace(QUIET_RUN, stages=stages)))
    assert "+35.5" in page.text


def test_the_same_run_gives_the_same_bytes(html: str) -> None:
    assert render(a_run()) == html


def test_both_files_are_written_and_agree(tmp_path: Path) -> None:
    written = write_report(QUIET_RUN, RUN_YAML, tmp_path / "new")
    assert written == tmp_path / "new" / "report.html"
    assert written.read_text() == render(QUIET_RUN)
    assert read_summary(tmp_path / "new") == summarise(QUIET_RUN)
    assert sorted(path.name for path in written.parent.iterdir()) == ["report.html", "report.json"]


def test_a_report_replaces_an_older_one(tmp_path: Path) -> None:
    write_report(QUIET_RUN, RUN_YAML, tmp_path)
    write_report(replace(QUIET_RUN, stages={"sft": QUIET_RUN.stages["sft"]}), RUN_YAML, tmp_path)
    assert list(json.loads((tmp_path / "report.json").read_text())["stages"]) == ["sft"]


def test_what_cannot_be_written_is_an_error_that_names_it_and_leaves_no_half_file(
    tmp_path: Path,
) -> None:
    target = tmp_path / "report.json"
    target.mkdir()
    with pytest.raises(StoreError, match=r"report\.json: cannot be written \(Is a directory\)"):
        replace_file(target, b"{}")
    assert os.listdir(tmp_path) == ["report.json"]


def test_what_was_written_survives_a_power_cut(tmp_path: Path) -> None:
    with watched(tmp_path) as disk:
        replace_file(tmp_path / "new/report.json", b"{}")

        assert disk.left() == {"new/report.json": b"{}"}


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    (tmp_path / f".report.json.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"report\.json: .*No space left on device.*make room"):
        replace_file(target, b"new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]
