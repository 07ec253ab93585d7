"""A stage whose result is in the store is done: the launcher reports it and starts nothing."""

import hashlib
import json
from pathlib import Path

import pytest

from commands import launch
from launch_builders import a_result, an_sft_config, put_result, written
from prism_api.base import parse_json
from prism_api.reporting import StageReport
from prism_api.stage_config import StageConfig
from prism_trainer.outcome import has_started
from prism_trainer.reports import find_report


@pytest.fixture
def config(tmp_path: Path, digits_folder: Path) -> StageConfig:
    return an_sft_config(tmp_path, digits_folder)


def launched(config: StageConfig, folder: Path) -> tuple[int, str]:
    """The next attempt's exit code and termination message."""
    again = written(config.model_copy(update={"attempt": 2}), folder)
    message = folder / "message"
    environment = {"PRISM_TERMINATION_FILE": str(message)}
    done = launch(again, folder / "work", environment=environment)
    assert not has_started(folder / "work")
    return done.returncode, message.read_text()


def test_the_next_attempt_reports_the_result_that_it_finds_and_starts_no_process(
    config: StageConfig, tmp_path: Path
) -> None:
    found = put_result(config, a_result(config).to_json())

    code, message = launched(config, tmp_path)

    assert code == 0
    report = parse_json(StageReport, message, "message")
    assert report.result == a_result(config)
    assert report.uri == f"file://{found}"
    assert report.digest == hashlib.sha256(found.read_bytes()).hexdigest()
    assert "\n" not in message


def test_a_result_of_other_settings_is_neither_reported_nor_trained_over(
    config: StageConfig, tmp_path: Path
) -> None:
    other = a_result(config).model_copy(update={"config_hash": "f" * 64})
    found = put_result(config, other.to_json())

    code, message = launched(config, tmp_path)

    assert code == 73
    assert message == (
        "sft: its result (attempt 1) was made under other settings, or from another checkpoint; "
        "undo the change, or start a run of another name"
    )
    assert found.read_text() == other.to_json()


def test_a_damaged_result_is_named(config: StageConfig, tmp_path: Path) -> None:
    found = put_result(config, a_result(config).to_json()[:100])

    code, message = launched(config, tmp_path)

    assert code == 74
    assert str(found) in message
    assert "delete the file to do the stage's end again" in message


@pytest.mark.parametrize(
    "stranger", [{"kind": "rlvr"}, {"run": {"uid": "0" * 8}}], ids=["other stage", "other run"]
)
def test_a_strangers_result_is_no_result(config: StageConfig, stranger: dict[str, object]) -> None:
    document = json.loads(a_result(config).to_json())
    run = stranger.get("run")
    changed = {"run": document["run"] | run} if isinstance(run, dict) else stranger
    put_result(config, json.dumps(document | changed))

    assert find_report(config) is None


def test_the_result_of_the_latest_attempt_counts(config: StageConfig) -> None:
    for attempt in (9, 10):
        one = config.model_copy(update={"attempt": attempt})
        put_result(one, a_result(one).to_json())

    report = find_report(config)

    assert report is not None
    assert report.result.attempt == 10
