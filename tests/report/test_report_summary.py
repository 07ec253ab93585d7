"""report.json: its shape is promised to users, its intervals are Wilson's."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from prism_api.errors import StoreError
from prism_operator.report.artifacts import RunArtifacts
from prism_operator.report.summary import read_summary, summarise, wilson_interval
from report_builders import CORRECT, HELDOUT, UID, a_run, a_stage, a_summary

# SciPy comes without types; imported like this, nothing has to be ignored.
binomtest = import_module("scipy.stats").binomtest

STAGE_KEYS = [
    "accuracy",
    "accuracy_ci95",
    "caption_accuracy",
    "format_rate",
    "mean_response_tokens",
    "steps",
    "seconds",
    "checkpoint",
]


def test_the_document_has_the_promised_keys() -> None:
    document = json.loads(a_summary().to_json())
    assert set(document) == {
        "name",
        "uid",
        "seed",
        "stages",
        "heldout_size",
        "peak_rss_bytes",
        "wall_seconds",
    }
    assert list(document["stages"]) == ["sft", "align", "rlvr"]
    assert all(list(stage) == STAGE_KEYS for stage in document["stages"].values())


def test_the_document_holds_what_the_stages_reported() -> None:
    document = json.loads(a_summary().to_json())
    assert document["uid"] == UID
    assert document["heldout_size"] == HELDOUT
    align = document["stages"]["align"]
    assert align["accuracy"] == CORRECT["align"] / HELDOUT
    assert align["accuracy_ci95"][0] < align["accuracy"] < align["accuracy_ci95"][1]
    assert align["caption_accuracy"] == 0.903
    assert (align["steps"], align["seconds"]) == (40, 104.2)
    assert align["checkpoint"].endswith("/align/a1/step-40")


def test_a_run_without_evaluation_has_nulls_for_all_that_was_not_measured() -> None:
    run = RunArtifacts("r", UID, 0, {"sft": a_stage("sft", evaluation=None)})
    document = json.loads(summarise(run).to_json())
    assert document["heldout_size"] is None
    stage = document["stages"]["sft"]
    assert [key for key in STAGE_KEYS if stage[key] is None] == STAGE_KEYS[:5]
    assert stage["steps"] == 400


def test_stages_are_listed_in_the_order_of_the_method() -> None:
    run = a_run(("rlvr", "sft"))
    assert list(summarise(run).stages) == ["sft", "rlvr"]


@pytest.mark.parametrize("trials", [1, 7, 50, 768, 100_000])
@pytest.mark.parametrize("share", [0.0, 0.004, 0.31, 0.5, 0.93, 1.0])
def test_the_interval_is_the_one_that_scipy_computes(trials: int, share: float) -> None:
    successes = round(share * trials)
    expected = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


def test_the_interval_matches_a_worked_example() -> None:
    # 10 of 20: centre 1/2, half width z / (2 sqrt(20 + z^2)) = 0.2007.
    assert wilson_interval(10, 20) == pytest.approx((0.29930, 0.70070), abs=1e-5)


@pytest.mark.parametrize("trials", [1, 3, 17, 768])
def test_the_interval_never_leaves_zero_and_one_nor_loses_the_rate(trials: int) -> None:
    for successes in range(trials + 1):
        low, high = wilson_interval(successes, trials)
        assert 0.0 <= low <= successes / trials <= high <= 1.0


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_what_is_no_rate_has_no_interval(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        wilson_interval(successes, trials)


def test_a_summary_is_read_from_its_file_or_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(a_summary().to_json())
    assert read_summary(file) == read_summary(tmp_path) == a_summary()


def test_a_missing_report_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"report\.json: cannot be read .*finished run"):
        read_summary(tmp_path)


def test_a_damaged_report_is_an_error_that_names_file_and_field(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(a_summary().to_json().replace('"seed": 0', '"seed": "0"'))
    with pytest.raises(StoreError, match=r"report\.json is not valid:\nseed: .*\n.*writes it anew"):
        read_summary(file)
