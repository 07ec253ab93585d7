"""Which attempts have just ended without a proof, so that their children are looked at again."""

from datetime import UTC, datetime

import pytest

from prism_api.exit_codes import ExitCode
from prism_api.status import AttemptStatus, PrismRunStatus, StageStatus
from prism_operator.planning.fold import has_ended_unproven

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_status(
    number: int = 1, outcome: str | None = None, code: int | None = None
) -> PrismRunStatus:
    facts = {"number": number, "started_at": NOW, "outcome": outcome, "exit_code": code}
    attempt = AttemptStatus.model_validate(facts)
    return PrismRunStatus(stages={"sft": StageStatus(attempt=attempt)})


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ("preempted", None),
        ("ended", None),
        ("ended", ExitCode.DONE),
        ("ended", ExitCode.CRASHED),  # another pod may know better
        ("ended", ExitCode.SAVED),  # the pod that made it save itself may be out of sight
    ],
)
def test_taken_away_or_over_without_a_proof(outcome: str, code: int | None) -> None:
    assert has_ended_unproven(a_status(), a_status(outcome=outcome, code=code))


@pytest.mark.parametrize("outcome", [None, "interrupted"])
def test_what_runs_or_was_asked_to_end_is_not_lost(outcome: str | None) -> None:
    assert not has_ended_unproven(a_status(), a_status(outcome=outcome))


def test_only_when_it_is_news() -> None:
    lost = a_status(outcome="preempted")
    assert not has_ended_unproven(lost, lost)
    assert has_ended_unproven(lost, a_status(number=2, outcome="preempted"))
    assert has_ended_unproven(PrismRunStatus(), lost)
