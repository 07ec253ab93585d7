"""Documents of the API, as kubelets, schedulers and controllers write them, and what they show.

Shapes after the API reference (PodStatus, ContainerState), "Pod Lifecycle", "Disruptions" and
"Node-pressure Eviction".
"""

from dataclasses import dataclass
from typing import Any

import pytest

from prism_operator.cluster.observe import job_seen, pod_seen, servers_seen, sighting_of
from prism_operator.cluster.resources import CONFIG_MAPS, DEPLOYMENTS, JOBS, PODS

Document = dict[str, Any]
EXIT = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T01:00:00Z"}


def metadata(**more: Any) -> Document:
    labels = {"prism.dev/run-uid": "u", "prism.dev/stage": "sft", "prism.dev/attempt": "2"}
    labels |= more.pop("labels", {})
    return {"name": "run-sft-a2-worker-1", "uid": "uid-1", "labels": labels} | more


def pod(status: Document, **more: Any) -> Document:
    """Of rank 1 of attempt 2."""
    owners = [{"kind": "PyTorchJob", "uid": "job-1", "controller": True}]
    labels = {"training.kubeflow.org/replica-index": "1"} | more.pop("labels", {})
    meta = metadata(labels=labels, ownerReferences=owners, **more)
    return {"metadata": meta, "status": status}


def container(state: Document, name: str = "pytorch") -> Document:
    return {"name": name, "ready": False, "restartCount": 0, "state": state}


def waiting(reason: str, message: str = "") -> Document:
    return container({"waiting": {"reason": reason, "message": message}})


def terminated(code: int, reason: str = "Error", message: str = "", name: str = "pytorch") -> Any:
    return container(
        {"terminated": {"exitCode": code, "reason": reason, "message": message, **EXIT}}, name
    )


def condition(kind: str, status: str, reason: str = "", message: str = "") -> Document:
    return {"type": kind, "status": status, "reason": reason, "message": message}


@dataclass(frozen=True)
class Case:
    """A pod's status, and some of what is seen."""

    name: str
    status: Document
    shows: Document

    def __str__(self) -> str:
        return self.name


NO_NODE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
CASES = (
    Case("nothing is known yet", {}, {"phase": "Pending", "blocker": "", "exit_code": None}),
    Case(
        "no node has room",
        {"phase": "Pending",
         "conditions": [condition("PodScheduled", "False", "Unschedulable", NO_NODE)]},
        {"blocker": f"Unschedulable: {NO_NODE}"},
    ),
    Case(
        "its containers are made",
        {"phase": "Pending", "containerStatuses": [waiting("ContainerCreating")]},
        {"blocker": ""},
    ),
    Case(
        "its init container runs",
        {"phase": "Pending", "containerStatuses": [waiting("PodInitializing")],
         "initContainerStatuses": [container({"running": {}}, "copy")]},
        {"blocker": ""},
    ),
    Case(
        "an image of an init container is missing",
        {"phase": "Pending", "containerStatuses": [waiting("PodInitializing")],
         "initContainerStatuses": [waiting("ErrImagePull", "not found")]},
        {"blocker": "ErrImagePull: not found"},
    ),
    *(
        Case(
            f"a container waits for {reason}",
            {"phase": "Pending", "containerStatuses": [waiting(reason, "why")]},
            {"blocker": f"{reason}: why"},
        )
        for reason in ("ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError",
                       "CreateContainerError", "RunContainerError")
    ),
    Case(
        "a trainer runs",
        {"phase": "Running", "podIP": "10.1.2.3", "containerStatuses": [container({"running": {}})],
         "conditions": [condition("Ready", "False", "ContainersNotReady")]},
        {"phase": "Running", "address": "10.1.2.3", "blocker": "", "disruption": ""},
    ),
    Case(
        "a trainer is done",
        {"phase": "Succeeded", "containerStatuses": [terminated(0, "Completed", "a report")]},
        {"exit_code": 0, "termination_message": "a report", "reason": "", "disruption": ""},
    ),
    Case(
        "a trainer has failed",
        {"phase": "Failed", "containerStatuses": [terminated(65, message="row 3")]},
        {"exit_code": 65, "termination_message": "row 3", "reason": ""},
    ),
    Case(
        "it was out of memory",
        {"phase": "Failed", "containerStatuses": [terminated(137, "OOMKilled")]},
        {"exit_code": 137, "reason": "OOMKilled", "disruption": ""},
    ),
    Case(
        "a side container's end says nothing",
        {"phase": "Running",
         "containerStatuses": [terminated(3, name="proxy"), container({"running": {}})]},
        {"exit_code": None, "termination_message": ""},
    ),
    Case(
        "an init container has failed",
        {"phase": "Failed", "containerStatuses": [waiting("PodInitializing")],
         "initContainerStatuses": [terminated(0, "Completed", name="a"), terminated(3, name="b")]},
        {"exit_code": None, "termination_message": "init container b ended with exit code 3"},
    ),
    Case(
        "the API evicts it",
        {"phase": "Running", "conditions": [
            condition("DisruptionTarget", "True", "EvictionByEvictionAPI", "Eviction API: evicting")
        ]},
        {"disruption": "EvictionByEvictionAPI: Eviction API: evicting"},
    ),
    Case(
        "the scheduler preempts it",
        {"phase": "Failed", "containerStatuses": [terminated(75)], "conditions": [
            condition("DisruptionTarget", "True", "PreemptionByScheduler", "more important")
        ]},
        {"disruption": "PreemptionByScheduler: more important", "exit_code": 75},
    ),
    Case(
        "an eviction that was taken back is none",
        {"phase": "Running", "conditions": [condition("DisruptionTarget", "False")]},
        {"disruption": ""},
    ),
    Case(
        "the kubelet evicts it under pressure",
        {"phase": "Failed", "reason": "Evicted",
         "message": "The node was low on resource: memory."},
        {"disruption": "Evicted: The node was low on resource: memory.", "exit_code": None,
         "termination_message": "The node was low on resource: memory."},
    ),
    Case(
        "its node shuts down",
        {"phase": "Failed", "reason": "Terminated",
         "message": "Pod was terminated in response to imminent node shutdown."},
        {"disruption":
         "Terminated: Pod was terminated in response to imminent node shutdown."},
    ),
    *(
        Case(
            f"its node does not take it: {reason}",
            {"phase": "Failed", "reason": reason, "message": "why"},
            {"disruption": f"{reason}: why"},
        )
        for reason in ("UnexpectedAdmissionError", "OutOfcpu", "OutOfnvidia.com/gpu",
                       "NodeAffinity")
    ),
    Case(
        "its own deadline is no disruption",
        {"phase": "Failed", "reason": "DeadlineExceeded", "message": "was active too long"},
        {"disruption": "", "termination_message": "was active too long"},
    ),
    Case(
        "its node does not answer",
        {"phase": "Unknown", "reason": "NodeLost"},
        {"disruption": "its node does not answer"},
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_pod_shows(case: Case) -> None:
    seen = pod_seen(pod(case.status))

    assert {name: getattr(seen, name) for name in case.shows} == case.shows
    assert (seen.role, seen.kind, seen.attempt, seen.index) == ("trainer", "sft", 2, 1)
    assert (seen.uid, seen.job_uid, seen.is_deleting) == ("uid-1", "job-1", False)


def test_a_pod_that_is_deleted_says_so() -> None:
    assert pod_seen(pod({}, deletionTimestamp="2026-01-01T00:00:00Z")).is_deleting


def test_a_crashing_rollout_server_says_what_keeps_it() -> None:
    status = {"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff", "back-off")]}
    seen = pod_seen(pod(status, labels={"prism.dev/role": "rollout"}))
    assert (seen.role, seen.attempt, seen.blocker) == ("rollout", 0, "CrashLoopBackOff: back-off")


def a_job(conditions: Any = None, suspend: bool | None = None) -> Document:
    policy = {} if suspend is None else {"suspend": suspend}
    status = {"conditions": conditions} if conditions is not None else {}
    return {"metadata": metadata(), "spec": {"runPolicy": policy}, "status": status}


def test_what_a_job_shows() -> None:
    created = condition("Created", "True", "PyTorchJobCreated")
    was_running = condition("Running", "False", "PyTorchJobRunning")
    failed = condition("Failed", "True", "PyTorchJobFailed", "worker 0 failed")
    succeeded = condition("Succeeded", "True", "PyTorchJobSucceeded", "successfully completed")

    for fresh in (a_job(), a_job([]), a_job([created])):
        assert not job_seen(fresh).is_finished
        assert not job_seen(fresh).is_queued
    counted = a_job([]) | {"status": {"replicaStatuses": {"Worker": {"failed": 2}}}}
    assert job_seen(counted).ended_pods == 2
    assert job_seen(a_job([])).ended_pods == 0
    assert job_seen(a_job(suspend=True)).is_queued
    assert not job_seen(a_job(suspend=False)).is_queued
    seen = job_seen(a_job([created, was_running, failed]))
    assert (seen.is_finished, seen.message, seen.attempt) == (True, "worker 0 failed", 2)
    seen = job_seen(a_job([created, was_running, succeeded]))
    assert (seen.is_finished, seen.message) == (True, "")
    assert not job_seen(a_job([condition("Failed", "False", message="restarting")])).is_finished


def test_servers_are_ready_once_their_deployment_has_been_looked_at() -> None:
    def ready(**status: Any) -> int:
        return servers_seen({"metadata": metadata(generation=3), "status": status}).ready

    assert ready(observedGeneration=3, readyReplicas=2) == 2
    assert ready(observedGeneration=2, readyReplicas=2) == 0
    assert ready(observedGeneration=3) == 0
    assert ready() == 0


def test_only_what_has_a_state_and_a_stage_of_ours_is_read() -> None:
    assert sighting_of(PODS, pod({})) is not None
    assert sighting_of(JOBS, a_job()) is not None
    assert sighting_of(DEPLOYMENTS, {"metadata": metadata()}) is not None
    assert sighting_of(CONFIG_MAPS, {"metadata": metadata()}) is None
    foreign = pod({}, labels={"prism.dev/stage": "bogus"})
    assert sighting_of(PODS, foreign) is None
    assert sighting_of(PODS, {"metadata": {"name": "x", "uid": "y"}}) is None
    odd = pod({}, labels={"prism.dev/attempt": "two"})
    assert pod_seen(odd).attempt == 0
