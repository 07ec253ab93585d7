"""What objects of the Kubernetes API show: pure, and tolerant of absent members."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from prism_api.names import ATTEMPT_LABEL, ROLE_LABEL, STAGE_LABEL, STAGE_ORDER, StageKind
from prism_api.reporting import TRAINER_CONTAINER
from prism_operator.cluster.resources import DEPLOYMENTS, JOBS, PODS, Resource
from prism_operator.planning.sightings import JobSeen, PodSeen, ServersSeen

Document = Mapping[str, Any]
Sighting = PodSeen | JobSeen | ServersSeen | None

_PATIENT = {"ContainerCreating", "PodInitializing"}
"""Why a container waits that is on its way."""
_REPLICA_INDEX = "training.kubeflow.org/replica-index"
_DISRUPTED_REASONS = {"Evicted", "NodeLost", "Preempting", "Shutdown", "NodeShutdown", "Terminated"}
"""`status.reason` of pods that a node gave up."""
_REJECTED_REASONS = {"UnexpectedAdmissionError", "NodeAffinity", "TopologyAffinityError"}
"""`status.reason` of pods that a node did not take, beside OutOfcpu and the like."""


def sighting_of(resource: Resource, document: Document) -> Sighting:
    """What an object shows; nothing of those whose existence is all that counts, and of those
    whose labels are not ours."""
    if _kind(document) is None:
        return None
    read = _READERS.get(resource)
    return read(document) if read else None


def job_seen(document: Document) -> JobSeen:
    """A PyTorchJob."""
    meta, status = document["metadata"], document.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or () if c["status"] == "True"}
    policy = document.get("spec", {}).get("runPolicy", {})
    counts = status.get("replicaStatuses") or {}
    failed = conditions.get("Failed")
    return JobSeen(
        uid=meta["uid"],
        name=meta["name"],
        kind=_kind_of(document),
        attempt=_number(meta["labels"].get(ATTEMPT_LABEL)),
        is_queued=bool(policy.get("suspend")),
        is_finished="Succeeded" in conditions or failed is not None,
        is_deleting="deletionTimestamp" in meta,
        message=str(failed.get("message", "")) if failed else "",
        ended_pods=sum(counts.get("Worker", {}).get(end, 0) for end in ("succeeded", "failed")),
    )


def servers_seen(document: Document) -> ServersSeen:
    """A Deployment of rollout servers."""
    meta, status = document["metadata"], document.get("status") or {}
    is_current = status.get("observedGeneration", 0) >= meta.get("generation", 0)
    conditions = {c["type"]: c for c in status.get("conditions") or () if c["status"] == "True"}
    failure = conditions.get("ReplicaFailure", {})
    return ServersSeen(
        uid=meta["uid"],
        name=meta["name"],
        kind=_kind_of(document),
        ready=status.get("readyReplicas", 0) if is_current else 0,
        is_deleting="deletionTimestamp" in meta,
        blocker=f"{failure.get('reason', '')}: {failure.get('message', '')}".strip(": "),
    )


def pod_seen(document: Document) -> PodSeen:
    """A pod of a trainer or a rollout server."""
    meta, status = document["metadata"], document.get("status") or {}
    labels = meta["labels"]
    role = "rollout" if labels.get(ROLE_LABEL) == "rollout" else "trainer"
    ended = _ended(status)
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    phase = status.get("phase", "Pending")
    owners = (o for o in meta.get("ownerReferences", ()) if o.get("controller"))
    return PodSeen(
        uid=meta["uid"],
        name=meta["name"],
        role=cast(Any, role),
        kind=_kind_of(document),
        attempt=_number(labels.get(ATTEMPT_LABEL)) if role == "trainer" else 0,
        index=_number(labels.get(_REPLICA_INDEX)),
        phase=phase,
        exit_code=ended.get("exitCode"),
        termination_message=str(ended.get("message") or ""),
        reason="" if ended.get("reason") in (None, "Completed", "Error") else ended["reason"],
        disruption=_disruption(status, conditions, phase),
        blocker=_blocker(status, conditions) if phase == "Pending" or role == "rollout" else "",
        is_deleting="deletionTimestamp" in meta,
        address=str(status.get("podIP") or ""),
        job_uid=next((o["uid"] for o in owners), ""),
    )


_READERS: dict[Resource, Callable[[Document], Sighting]] = {
    JOBS: job_seen,
    PODS: pod_seen,
    DEPLOYMENTS: servers_seen,
}


def _ended(status: Document) -> dict[str, Any]:
    """How the trainer ended; without it, why it never came to run."""
    for container in status.get("containerStatuses") or ():
        if container.get("name") == TRAINER_CONTAINER and (ended := _terminated(container)):
            return ended
    for container in status.get("initContainerStatuses") or ():
        if code := _terminated(container).get("exitCode"):
            return {"message": f"init container {container['name']} ended with exit code {code}"}
    return {"message": status.get("message")} if status.get("phase") == "Failed" else {}


def _terminated(container: Document) -> dict[str, Any]:
    return dict(container.get("state", {}).get("terminated") or {})


def _disruption(status: Document, conditions: Mapping[str, Any], phase: str) -> str:
    target = conditions.get("DisruptionTarget")
    if target is not None and target.get("status") == "True":
        return f"{target.get('reason', 'DisruptionTarget')}: {target.get('message', '')}"
    reason = str(status.get("reason", ""))
    is_rejected = reason in _REJECTED_REASONS or reason.startswith("OutOf")
    if phase == "Failed" and (reason in _DISRUPTED_REASONS or is_rejected):
        return f"{reason}: {status.get('message', '')}"
    # Not yet a pod whose condition Ready has the reason NodeNotReady: a kubelet is silent now and
    # then. Once its tolerations of that are over, Kubernetes says so by DisruptionTarget.
    return "its node does not answer" if phase == "Unknown" else ""


def _blocker(status: Document, conditions: Mapping[str, Any]) -> str:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', '')}: {scheduled.get('message', '')}".strip(": ")
    containers = (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    )
    for container in containers:
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] not in _PATIENT:
            return f"{waiting['reason']}: {waiting.get('message', '')}".strip(": ")
    return ""


def _kind(document: Document) -> StageKind | None:
    kind = document["metadata"].get("labels", {}).get(STAGE_LABEL)
    return kind if kind in STAGE_ORDER else None


def _kind_of(document: Document) -> StageKind:
    kind = _kind(document)
    assert kind is not None
    return kind


def _number(text: Any) -> int:
    return int(text) if isinstance(text, str) and text.isdigit() else 0
