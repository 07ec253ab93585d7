"""What a candidate and a holder make of the Lease that they see."""

from datetime import UTC, datetime
from typing import Any

import pytest

from lease_builders import TIMES, a_lease
from prism_operator.cluster.lease import (
    Acquire,
    Lost,
    Renew,
    Sighting,
    Tenure,
    Wait,
    acquired,
    decide_lease,
    released,
    sight,
)

TODAY = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@pytest.mark.parametrize(
    ("lease", "since", "now", "decision"),
    [
        (a_lease("b"), 100.0, 100.0, Wait(2.0)),
        (a_lease("b"), 100.0, 114.5, Wait(0.5)),
        (a_lease("b"), 100.0, 115.0, Acquire()),
        (a_lease("b", leaseDurationSeconds=40), 100.0, 120.0, Wait(2.0)),
        (a_lease("b", leaseDurationSeconds=40), 100.0, 140.0, Acquire()),
        (a_lease(""), 100.0, 100.0, Acquire()),
        (a_lease("a"), 100.0, 100.0, Acquire()),
        ({"metadata": {"resourceVersion": "7"}}, 100.0, 100.0, Acquire()),
        (None, 100.0, 100.0, Wait(2.0)),
        (None, 100.0, 115.0, Acquire()),
    ],
)
def test_a_candidate_waits_for_as_long_as_the_holder_was_promised(
    lease: dict[str, Any] | None, since: float, now: float, decision: object
) -> None:
    assert decide_lease(Sighting(lease, since), None, "a", now, TIMES) == decision


@pytest.mark.parametrize(
    ("lease", "now", "decision"),
    [
        (a_lease("a"), 101.5, Wait(0.5)),
        (a_lease("a"), 102.0, Renew()),
        (a_lease("a"), 109.9, Renew()),
        (a_lease("a"), 110.0, Lost("it could not be renewed for 10 s")),
        (a_lease("b"), 101.0, Lost("b has it, who wrote it since")),
        (a_lease("a", term=4), 101.0, Lost("a has it, who wrote it since")),
        (a_lease(""), 101.0, Lost("nobody has it, who wrote it since")),
        (None, 101.0, Lost("somebody deleted it")),
    ],
)
def test_a_holder_renews_until_it_must_stop(
    lease: dict[str, Any] | None, now: float, decision: object
) -> None:
    assert decide_lease(Sighting(lease, 0.0), Tenure(3, 100.0), "a", now, TIMES) == decision


def test_no_other_machine_s_clock_is_read() -> None:
    for year in ("1970", "2100"):
        stamp = f"{year}-01-01T00:00:00.000000Z"
        lease = a_lease("b", renewTime=stamp, acquireTime=stamp)
        assert decide_lease(sight(None, lease, 5.0), None, "a", 6.0, TIMES) == Wait(2.0)


def test_a_lease_has_been_so_since_it_was_first_seen_so() -> None:
    first = sight(None, a_lease(version="7"), 1.0)
    assert sight(first, a_lease(version="7"), 5.0).since == 1.0
    assert sight(first, a_lease(version="8"), 5.0).since == 5.0
    assert sight(first, None, 5.0).since == 5.0


def test_a_lease_that_never_was_there_is_free() -> None:
    assert decide_lease(sight(None, None, 5.0), None, "a", 5.0, TIMES) == Acquire()


def test_what_is_written_is_fenced_and_keeps_what_others_wrote() -> None:
    lease = a_lease("b", term=3)
    lease["metadata"]["labels"] = {"team": "x"}
    mine = acquired(lease, {}, "a", TODAY, TIMES)
    assert mine["metadata"] == lease["metadata"]
    assert mine["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-02T03:04:05.678901Z",
        "renewTime": "2026-01-02T03:04:05.678901Z",
        "leaseTransitions": 4,
    }
    assert "holderIdentity" not in released(mine)["spec"]
    assert lease == a_lease("b", term=3) | {"metadata": lease["metadata"]}
