"""The termination message: proof or reason, in 4096 bytes, whatever happens."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import launch
from launch_builders import a_result, an_sft_config, put_result, written
from prism_api.exit_codes import ExitCode
from prism_api.stage_config import StageConfig
from prism_api.uris import file_uri
from prism_trainer.outcome import Outcome
from prism_trainer.termination import shortened, termination_message, write_message

ALONE: dict[str, str] = {}
SECOND_POD = {"PRISM_NODES": "2", "PRISM_NODE_RANK": "1", "PRISM_RENDEZVOUS": "a:1"}


@pytest.fixture
def config(tmp_path: Path, digits_folder: Path) -> StageConfig:
    workers = {"replicas": 2, "engine": "replicated"}
    return an_sft_config(tmp_path, digits_folder, {"spec.workers": workers})


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=3000))
def test_any_text_is_cut_to_4096_bytes_between_characters(text: str) -> None:
    ours = shortened(text)

    whole = text.encode(errors="replace").decode()
    assert whole.startswith(ours.decode())
    # One more character would not fit.
    assert ours.decode() == whole or len(whole[: len(ours.decode()) + 1].encode()) > 4096
    assert len(ours) <= 4096


@pytest.mark.parametrize("shift", range(4))
def test_a_character_on_the_border_is_left_out_as_a_whole(shift: int) -> None:
    text = "x" * shift + "🦆" * 2000

    assert shortened(text).decode() == text[: shift + (4096 - shift) // 4]


def test_every_end_but_a_stage_that_is_done_leaves_its_sentence(tmp_path: Path) -> None:
    outcome = Outcome(ExitCode.BAD_DATA, "rows.jsonl row 3: no teacher")

    assert termination_message(tmp_path, outcome, ALONE) == b"rows.jsonl row 3: no teacher"
    silent = termination_message(tmp_path, Outcome(ExitCode.CRASHED), ALONE)
    assert silent == b"ended without a word; see the log"
    saved = termination_message(tmp_path, Outcome(ExitCode.SAVED), ALONE)
    assert saved == b"stopped on request, and saved: the next attempt goes on from there"


def test_only_the_first_pod_of_a_stage_reports_its_result(
    config: StageConfig, tmp_path: Path
) -> None:
    path = written(config, tmp_path)
    put_result(config, a_result(config).to_json())
    done = Outcome(ExitCode.DONE)

    first = termination_message(path, done, SECOND_POD | {"PRISM_NODE_RANK": "0"})

    assert a_result(config).config_hash.encode() in first
    second = termination_message(path, done, SECOND_POD)
    assert second == b"done; the stage's first pod has the report"


def test_a_report_that_is_too_long_is_an_error_that_says_what_to_shorten(
    config: StageConfig, tmp_path: Path
) -> None:
    result = a_result(config)
    far = result.checkpoint.model_copy(update={"uri": "file:///" + "x" * 4096})
    put_result(config, result.model_copy(update={"checkpoint": far}).to_json())

    message = termination_message(written(config, tmp_path), Outcome(ExitCode.DONE), ALONE)

    assert b"more than 4096; shorten storage.uri. The result is at file://" in message
    assert b"xxxx" not in message


def test_a_result_that_cannot_be_read_is_said(config: StageConfig, tmp_path: Path) -> None:
    path, done = written(config, tmp_path), Outcome(ExitCode.DONE)

    assert b"has no result in the store" in termination_message(path, done, ALONE)
    put_result(config, "{}")
    assert b"its result cannot be reported: file://" in termination_message(path, done, ALONE)


def test_the_file_is_written_in_place_for_it_is_a_mount(tmp_path: Path) -> None:
    file = tmp_path / "termination-log"
    file.write_text("what was there before")
    inode = file.stat().st_ino

    outcome = Outcome(ExitCode.CRASHED, "it broke")
    write_message(tmp_path, outcome, {"PRISM_TERMINATION_FILE": str(file)})

    assert (file.stat().st_ino, file.read_text()) == (inode, "it broke")


@pytest.mark.parametrize("file", ["absent/file", "."])
def test_a_message_that_cannot_be_written_leaves_the_exit_code(tmp_path: Path, file: str) -> None:
    environment = {"PRISM_TERMINATION_FILE": str(tmp_path / file)}

    done = launch(tmp_path / "no.json", tmp_path / "work", environment=environment)

    assert done.returncode == 64
    assert "cannot be read" in done.stderr


def test_a_launcher_leaves_the_message_of_its_outcome(tmp_path: Path) -> None:
    file = tmp_path / "message"

    done = launch(
        tmp_path / "no.json", tmp_path / "work", environment={"PRISM_TERMINATION_FILE": str(file)}
    )

    assert done.returncode == 64
    assert file.read_text() == done.stderr.rstrip("\n")
    assert str(tmp_path / "no.json") in file.read_text()


def test_the_launcher_does_not_import_torch(config: StageConfig, tmp_path: Path) -> None:
    """Nor what is heavy, even where it reports a result."""
    put_result(config, a_result(config).to_json())
    environment = {
        "PRISM_TERMINATION_FILE": str(tmp_path / "message"),
        "PYTHONPROFILEIMPORTTIME": "1",
    }

    done = launch(written(config, tmp_path), tmp_path / "work", environment=environment)

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert file_uri(tmp_path / "store") in (tmp_path / "message").read_text()
    assert "prism_trainer.termination" in imported
    assert imported.isdisjoint({"torch", "transformers", "numpy", "pyarrow", "prometheus_client"})
