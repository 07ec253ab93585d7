"""Household.needed(): which children a run is to have, by what is stored of it."""

from datetime import datetime
from typing import Any

import pytest

from prism_api.names import StageKind
from prism_api.resources import Images
from prism_api.status import AttemptStatus, PrismRunStatus, StageStatus, State
from prism_operator.cluster.runs import RunReader
from prism_operator.manifests.children import FINISH_SECONDS, Household
from prism_operator.planning.sightings import ChildrenSeen, JobSeen, PodSeen, ServersSeen
from run_builders import UID, Changes, put
from sighting_builders import NOW, later
from simulated_cluster import report_of

KIND: StageKind = "rlvr"
_RUN: Any = {
    "metadata": {"name": "run", "namespace": "team", "uid": UID, "resourceVersion": "1"},
    "spec": {
        "model": {"uri": "hf://org/model"},
        "storage": {"uri": "s3://bucket/x"},
        "rollout": {"backend": "vllm"},
        "stages": {KIND: {"data": {"uri": "s3://b/r.parquet"}}},
    },
}
SERVERS = {"NetworkPolicy/run-rlvr-rollout", "Service/run-rlvr-rollout",
           "Deployment/run-rlvr-rollout"}  # fmt: skip
JOB_1 = {"ConfigMap/run-rlvr-a1", "PyTorchJob/run-rlvr-a1"}
READY = ServersSeen("d", "run-rlvr-rollout", KIND, 1)


def a_household(changes: Changes | None = None) -> Household:
    images = Images(trainer="t:1", rollout="r:1")
    read = RunReader(images).read(put(_RUN, changes or {}), None).read
    assert read is not None
    return read.household


REPORT = report_of(a_household().plan.train_steps[0].config(1, None))


def a_status(state: State = State.RUNNING, **facts: Any) -> PrismRunStatus:
    """A run of one stage in its first attempt, which has facts; `proven`: it is done."""
    result = REPORT if facts.pop("proven", False) else None
    completion_time = facts.pop("completion_time", None)
    known: dict[str, Any] = {"number": 1, "started_at": NOW} | facts
    attempt = AttemptStatus(**known)
    stage = StageStatus(state=state, attempt=attempt, result=result)
    return PrismRunStatus(state=state, completion_time=completion_time, stages={KIND: stage})


def a_job(number: int = 1, **facts: Any) -> JobSeen:
    known = {"is_queued": False, "is_finished": False} | facts
    return JobSeen(f"j{number}", f"run-rlvr-a{number}", KIND, number, **known)


def a_pod(phase: Any, number: int = 1) -> PodSeen:
    return PodSeen("p", f"run-rlvr-a{number}-worker-0", "trainer", KIND, number, 0, phase)


def needed(
    status: PrismRunStatus,
    *seen: Any,
    now: datetime = NOW,
    changes: Changes | None = None,
    only_made: bool = False,
) -> set[str]:
    """Kinds and names; of what is made if it is not there, if that alone is asked for."""
    children = ChildrenSeen(
        jobs=tuple(s for s in seen if isinstance(s, JobSeen)),
        pods=tuple(s for s in seen if isinstance(s, PodSeen)),
        servers=tuple(s for s in seen if isinstance(s, ServersSeen)),
    )
    found = a_household(changes).needed(status, children, now)
    return {f"{n.kind}/{n.name}" for n in found if n.is_made or not only_made}


ENDED = {"outcome": "ended", "exit_code": 1, "ended_at": NOW, "job_uid": "j1"}
DONE = {"outcome": "ended", "exit_code": 0, "ended_at": NOW, "job_uid": "j1"}
TAKEN = {"outcome": "preempted", "ended_at": NOW, "job_uid": "j1"}
STOPPING = {"stopping": "suspended", "stopped_by": "user", "job_uid": "j1"}
OVER = (a_job(is_finished=True), a_pod("Failed"))
HANGING = (a_job(), a_pod("Running"))


def test_a_run_that_has_not_begun_needs_nothing() -> None:
    assert needed(PrismRunStatus()) == set()


def test_a_job_is_made_when_its_servers_are_ready() -> None:
    config_map = {"ConfigMap/run-rlvr-a1"}
    assert needed(a_status()) == SERVERS | config_map
    assert needed(a_status(), ServersSeen("d", "run-rlvr-rollout", KIND, 0)) == SERVERS | config_map
    assert needed(a_status(), READY, only_made=True) == SERVERS | JOB_1


def test_a_stage_without_servers_needs_none() -> None:
    inprocess = {"spec.rollout.backend": "inprocess"}
    assert needed(a_status(), changes=inprocess, only_made=True) == JOB_1


def test_a_job_that_trains_is_kept_and_never_made_again() -> None:
    training = a_status(job_uid="j1")
    assert needed(training, a_job(), READY) == SERVERS | JOB_1
    assert "PyTorchJob/run-rlvr-a1" not in needed(training, READY)
    assert needed(training, a_job()) == SERVERS | JOB_1, "its servers are down"


def test_a_job_is_not_made_beside_the_pods_of_a_deleted_one() -> None:
    assert "PyTorchJob/run-rlvr-a1" not in needed(a_status(), READY, a_pod("Running"))


@pytest.mark.parametrize("state", [State.SUSPENDED, State.BLOCKED, State.FAILED, State.CANCELLED])
def test_what_is_settled_needs_no_servers(state: State) -> None:
    assert not SERVERS & needed(a_status(state, **ENDED), READY)


def test_servers_live_through_restarts_and_end_after_their_trainer() -> None:
    assert needed(a_status(State.PENDING, **ENDED), READY) >= SERVERS, "the pause before a restart"
    assert needed(a_status(number=2), READY) >= SERVERS
    assert needed(a_status(State.STOPPING, **STOPPING), READY) >= SERVERS, "it saves itself"
    assert needed(a_status(State.SUCCEEDED, job_uid="j1", proven=True), READY) >= SERVERS
    assert not SERVERS & needed(a_status(State.SUCCEEDED, proven=True, **DONE), READY)


def test_a_job_that_is_to_stop_goes() -> None:
    assert not JOB_1 & needed(a_status(State.STOPPING, **STOPPING), *HANGING, READY)


@pytest.mark.parametrize(
    ("facts", "keep", "stays"),
    [
        (ENDED, {"failed": True}, True),
        (ENDED, {"failed": False}, False),
        (TAKEN, {"failed": True}, False),
        ({**DONE, "proven": True}, {"succeeded": True}, True),
        ({**DONE, "proven": True}, {"succeeded": False}, False),
    ],
    ids=["failed", "failed, not kept", "taken away", "done", "done, not kept"],
)
def test_what_has_ended_is_kept_as_the_user_asks(
    facts: dict[str, Any], keep: dict[str, bool], stays: bool
) -> None:
    changes = {"spec.keepChildren": keep}
    found = needed(a_status(State.FAILED, **facts), *OVER, changes=changes, now=later(999))
    assert found == (JOB_1 if stays else set())


def test_what_hangs_is_given_a_moment_and_holds_no_machines_after_it() -> None:
    ended = a_status(State.FAILED, **ENDED)
    assert needed(ended, *HANGING, now=later(FINISH_SECONDS - 1)) == JOB_1
    assert needed(ended, *HANGING, now=later(FINISH_SECONDS)) == set()


def test_of_the_attempts_before_the_last_one_is_kept_if_it_has_ended() -> None:
    status = a_status(number=3)
    second = {"ConfigMap/run-rlvr-a2", "PyTorchJob/run-rlvr-a2"}
    ended = (a_job(1, is_finished=True), a_job(2, is_finished=True), a_pod("Failed", 2))
    assert needed(status, *ended) == SERVERS | second | {"ConfigMap/run-rlvr-a3"}
    assert not second & needed(status, a_job(2), a_pod("Running", 2))
    assert not second & needed(status, *ended, changes={"spec.keepChildren": {"failed": False}})


def test_after_its_time_to_live_a_finished_run_needs_nothing() -> None:
    changes = {"spec.ttlSecondsAfterFinished": 100}
    failed = a_status(State.FAILED, completion_time=NOW, **ENDED)
    assert needed(failed, *OVER, changes=changes, now=later(99)) == JOB_1
    assert needed(failed, *OVER, changes=changes, now=later(100)) == set()
    assert needed(failed, *OVER, now=later(10**6)) == JOB_1
    resumed = a_status(State.RUNNING, number=2)
    assert needed(resumed, changes=changes, now=later(100)) >= SERVERS

    household = a_household(changes)
    assert household.expires_in(failed, later(40)) == 60
    assert household.expires_in(failed, later(100)) is None
    assert household.expires_in(resumed, NOW) is None
    assert a_household().expires_in(failed, NOW) is None
