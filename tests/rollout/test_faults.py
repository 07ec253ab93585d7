"""What follows from a fault: a pause, or the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_api.errors import RolloutError
from prism_api.exit_codes import PERMANENT
from prism_trainer.rollouts.faults import Budget, Fault, Kind, check_attempts, pause_after

BUDGET = Budget(attempts=3, outage_seconds=60, first_pause_seconds=0.5, longest_pause_seconds=5)


def a_fault(kind: Kind = Kind.UNREACHABLE) -> Fault:
    return Fault(kind, "http://one:8000", "generate", "connection refused")


def test_pauses_double_up_to_a_limit() -> None:
    pauses = [pause_after(a_fault(), failures, 0.0, BUDGET) for failures in range(1, 7)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


@given(st.sampled_from(Kind), st.integers(1, 10**6), st.floats(0, 60))
def test_within_the_budget_every_fault_is_tried_again(
    kind: Kind, failures: int, outage_seconds: float
) -> None:
    assert 0 < pause_after(a_fault(kind), failures, outage_seconds, BUDGET) <= 5


@pytest.mark.parametrize("kind", Kind)
def test_an_outage_beyond_the_budget_names_server_operation_cause_and_remedy(kind: Kind) -> None:
    with pytest.raises(RolloutError) as raised:
        pause_after(a_fault(kind), 1, 61.0, BUDGET)
    message = str(raised.value)
    assert message.startswith("http://one:8000: generate: connection refused (no rollout server")
    assert message.endswith(kind.value)


def test_a_request_is_given_up_after_its_attempts() -> None:
    check_attempts(a_fault(), 2, BUDGET)
    with pytest.raises(RolloutError, match="given up after 3 attempts"):
        check_attempts(a_fault(), 3, BUDGET)


def test_giving_up_is_no_permanent_failure_of_the_stage() -> None:
    assert RolloutError.exit_code not in PERMANENT
