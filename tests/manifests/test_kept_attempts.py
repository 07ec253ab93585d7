"""Which children of earlier attempts are kept."""

from datetime import UTC, datetime

import pytest

from child_builders import a_step, small_context
from prism_api.resources import KeepChildren
from prism_api.status import AttemptStatus, PrismRunStatus, StageStatus, State
from prism_operator.manifests.children import Household
from prism_operator.planning.sightings import ChildrenSeen, JobSeen, PodSeen, Wanted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = JobSeen("job-1", "run-sft-a1", "sft", 1, False, True, False, "")


def a_failed_pod(disruption: str) -> PodSeen:
    return PodSeen(
        uid="pod-1",
        name="run-sft-a1-worker-0",
        role="trainer",
        kind="sft",
        attempt=1,
        index=0,
        phase="Failed",
        exit_code=None if disruption else 1,
        disruption=disruption,
        job_uid=JOB.uid,
    )


def second_attempt() -> PrismRunStatus:
    attempt = AttemptStatus(number=2, started_at=NOW)
    return PrismRunStatus(stages={"sft": StageStatus(state=State.RUNNING, attempt=attempt)})


@pytest.mark.parametrize(
    ("disruption", "keep", "is_kept"),
    [("", True, True), ("", False, False), ("Evicted: its node is low on memory", True, False)],
)
def test_in_the_next_attempt_a_failed_one_is_kept_for_its_logs_and_a_preempted_one_is_not(
    disruption: str, keep: bool, is_kept: bool
) -> None:
    plan, _ = a_step({}, "sft")
    house = Household(plan, small_context(plan), KeepChildren(failed=keep), None, Wanted())
    seen = ChildrenSeen(jobs=(JOB,), pods=(a_failed_pod(disruption),))
    needed = [(child.kind, child.name) for child in house.needed(second_attempt(), seen, NOW)]
    assert (("PyTorchJob", JOB.name) in needed) == is_kept
    assert (("ConfigMap", JOB.name) in needed) == is_kept
