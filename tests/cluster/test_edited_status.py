"""Whatever a user writes into the status of a run, the run ends well."""

from collections.abc import Callable

import pytest

from operated_runs import JOBS, Document
from quick_runs import LONG, Open, first

pytestmark = pytest.mark.cluster


EDITS: dict[str, Callable[[Document], Document]] = {
    "counters": lambda s: {"restarts": 99, "stages": {"sft": {"restarts": {"preemptions": 7}}}},
    "a later number": lambda s: {"stages": {"align": {"attempt": {"number": 7}}}},
    "result removed": lambda s: {"stages": {"sft": {"result": None}}},
    "result of another stage": lambda s: {
        "stages": {"align": {"result": s["stages"]["sft"]["result"]}}
    },
    "state": lambda s: {"state": "Failed", "stages": {"align": {"state": "Succeeded"}}},
    "attempt ended": lambda s: {"stages": {"align": {"attempt": {"outcome": "interrupted"}}}},
    "attempt removed": lambda s: {"stages": {"align": {"attempt": None}}},
    "stage removed": lambda s: {"stages": {"align": None}},
    "first stage removed": lambda s: {"stages": {"sft": None}},
    "all removed": lambda s: dict.fromkeys(s),
    "conditions": lambda s: {"conditions": [], "message": "nothing to see"},
    "another job": lambda s: {"stages": {"align": {"attempt": {"jobUid": "f00"}}}},
    "a later stage": lambda s: {
        "stages": {"rlvr": {"attempt": {"number": 3, "startedAt": "2026-01-01T00:00:00Z"}}}
    },
}


@pytest.mark.parametrize("edit", EDITS)
def test_whatever_is_written_into_the_status_the_run_ends_well(house: Open, edit: str) -> None:
    """And no two attempts ever run together, nothing is left over."""
    with house(first(LONG)) as at:
        run = at.run("run", "sft", "align", "rlvr")
        run.trains("align")
        run.edit_status(**EDITS[edit](run.status))
        status = run.ends()
        assert status["currentStage"] == "rlvr"
        assert {s["state"] for s in status["stages"].values()} == {"Succeeded"}
        assert all("result" in s for s in status["stages"].values())
        run.until("its children go", at.is_empty)


def test_a_status_that_cannot_be_read_is_told_and_the_run_goes_on_when_it_is_mended(
    house: Open,
) -> None:
    """It stays as its user wrote it until then, and so does what runs."""
    with house(first(LONG)) as at:
        run = at.run("run", "sft", "align")
        run.trains("align")
        job = at.get(JOBS, "run-align-a1")["metadata"]["uid"]
        run.edit_status(stages={"mine": {"message": "by hand"}})
        run.until("it is told", lambda: run.condition("Accepted")["status"] == "False")
        told = run.condition("Accepted")
        assert told["reason"] == "UnreadableStatus"
        assert "mine" in told["message"]
        assert "remove what is wrong" in told["message"]
        assert "mine" in run.event("UnreadableStatus")["note"]
        at.stays("its job", lambda: at.get(JOBS, "run-align-a1")["metadata"]["uid"] == job)
        assert run.stage("mine")["message"] == "by hand"
        run.edit_status(stages={"mine": None})
        status = run.ends()
        assert run.condition("Accepted")["status"] == "True"
        assert status["stages"]["align"]["attempt"]["number"] == 1


def test_a_finished_run_whose_result_is_taken_away_proves_itself_again(house: Open) -> None:
    with house() as at:
        run = at.run("run", "sft", "align")
        before = run.ends()["stages"]
        run.until("its pods, which know it too, go", at.is_empty)
        run.edit_status(stages={"align": {"result": None}})
        run.until("it works again", lambda: run.attempt("align")["number"] == 2)
        after = run.ends()["stages"]
        assert after["sft"]["result"] == before["sft"]["result"]
        assert after["align"]["attempt"]["number"] == 2
