"""What the Training Operator (1.9) does next to a PyTorchJob of workers: pure.

Transcribed in meaning from its `pkg/controller.v1/common/job.go`, `pod.go` and
`pytorch/pytorchjob_controller.go`; left out, for PRISM's jobs have none of it: masters, services,
restart policies but Never, backoff limits, deadlines.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from played.api import Json

LABELS = "training.kubeflow.org"
JOB_NAME = f"{LABELS}/job-name"
REPLICA_INDEX = f"{LABELS}/replica-index"
CONTROLLER = "pytorchjob-controller"


@dataclass(frozen=True)
class Next:
    """What one reconcile does."""

    create: tuple[int, ...] = ()
    """Indices of workers that have no pod."""
    delete: tuple[str, ...] = ()
    """Names of pods."""
    status: Json | None = None
    """What the job's status becomes, if it changes."""


def next_of(job: Json, pods: list[Json], now: datetime) -> Next:
    """The next step for a job and the pods that it controls."""
    status = dict(job.get("status") or {})
    _tell(status, job, "Created", "is created", now)
    if is_over(status):
        return Next(delete=_cleaned(job, pods), status=_changed(job, status))
    if job["spec"].get("runPolicy", {}).get("suspend"):
        return _suspended(job, pods, status, now)
    if _is(status, "Suspended"):
        _tell(status, job, "Suspended", "is resumed", now, "False", "Resumed")
        status["startTime"] = timestamp(now)
    there = {int(pod["metadata"]["labels"][REPLICA_INDEX]): pod for pod in pods}
    wanted = job["spec"]["pytorchReplicaSpecs"]["Worker"].get("replicas", 1)
    missing = tuple(index for index in range(wanted) if index not in there)
    surplus = tuple(there[index]["metadata"]["name"] for index in there if index >= wanted)
    _count(status, job, list(there.values()), wanted, now)
    return Next(missing, surplus, _changed(job, status))


def is_over(status: Json) -> bool:
    """Whether a job has succeeded or failed."""
    return _is(status, "Succeeded") or _is(status, "Failed")


def pod_of(job: Json, index: int) -> Json:
    """The pod of a worker."""
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    template, name = worker["template"], job["metadata"]["name"]
    labels = {
        **template.get("metadata", {}).get("labels", {}),
        JOB_NAME: name,
        f"{LABELS}/operator-name": CONTROLLER,
        f"{LABELS}/replica-type": "worker",
        REPLICA_INDEX: str(index),
        **({f"{LABELS}/job-role": "master"} if index == 0 else {}),
    }
    metadata = {
        **template.get("metadata", {}),
        "name": f"{name}-worker-{index}",
        "namespace": job["metadata"]["namespace"],
        "labels": labels,
        "ownerReferences": [_owner(job)],
    }
    spec = {**template["spec"], "restartPolicy": worker.get("restartPolicy", "OnFailure")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def timestamp(now: datetime) -> str:
    """As Kubernetes writes it: whole seconds, UTC."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _owner(job: Json) -> Json:
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _count(status: Json, job: Json, pods: list[Json], wanted: int, now: datetime) -> None:
    """Replica counts, and the conditions that follow from them."""
    count = Counter(_counted(pod) for pod in pods)
    active, succeeded, failed = (count[name] for name in ("active", "succeeded", "failed"))
    counts = {"active": active, "succeeded": succeeded, "failed": failed}
    selector = f"{JOB_NAME}={job['metadata']['name']},{LABELS}/operator-name={CONTROLLER}"
    worker = {name: number for name, number in counts.items() if number}
    status["replicaStatuses"] = {
        "Worker": {**worker, "selector": f"{selector},{LABELS}/replica-type=worker"}
    }
    status.setdefault("startTime", timestamp(now))
    if succeeded >= wanted or ("elasticPolicy" in job["spec"] and succeeded):
        status.setdefault("completionTime", timestamp(now))
        _tell(status, job, "Succeeded", "successfully completed", now)
    elif active:
        _tell(status, job, "Running", "is running", now)
    if failed and wanted > succeeded + active:
        status.setdefault("completionTime", timestamp(now))
        _tell(status, job, "Failed", f"is failed because {failed} Worker replica(s) failed", now)


def _counted(pod: Json) -> str:
    """A running pod that is being deleted counts as failed; one that never ran does not count."""
    phase = pod.get("status", {}).get("phase")
    if phase == "Running" and pod["metadata"].get("deletionGracePeriodSeconds") == 0:
        # Deleted by force: gone with the next event. Whether the real operator looks in between is
        # chance, and tests have none.
        return "pending"
    if phase == "Running":
        return "failed" if "deletionTimestamp" in pod["metadata"] else "active"
    return {"Succeeded": "succeeded", "Failed": "failed"}.get(phase, "pending")


def _suspended(job: Json, pods: list[Json], status: Json, now: datetime) -> Next:
    status["replicaStatuses"] = {
        kind: {name: value for name, value in counts.items() if name != "active"}
        for kind, counts in status.get("replicaStatuses", {}).items()
    }
    if _is(status, "Running"):
        _tell(status, job, "Running", "is suspended", now, "False", "Suspended")
    _tell(status, job, "Suspended", "is suspended", now)
    return Next(delete=_not_yet_deleted(pods), status=_changed(job, status))


def _cleaned(job: Json, pods: list[Json]) -> tuple[str, ...]:
    """Pods that the end of a job removes; a pending one counts as running."""
    policy = job["spec"].get("runPolicy", {}).get("cleanPodPolicy", "None")
    phases = {"Running": ("Running", "Pending"), "None": ()}.get(policy)
    chosen = [pod for pod in pods if phases is None or pod["status"].get("phase") in phases]
    return _not_yet_deleted(chosen)


def _not_yet_deleted(pods: list[Json]) -> tuple[str, ...]:
    names = [pod["metadata"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return tuple(metadata["name"] for metadata in names)


def _is(status: Json, kind: str) -> bool:
    conditions = status.get("conditions") or ()
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def _tell(
    status: Json, job: Json, kind: str, says: str, now: datetime, value: str = "True", why: str = ""
) -> None:
    """Set a condition, unless the job has failed or the condition says the same."""
    conditions = status.get("conditions") or []
    before = next((each for each in conditions if each["type"] == kind), None)
    reason = f"PyTorchJob{why or kind}"
    same = before and (before["status"], before["reason"]) == (value, reason)
    if same or _is(status, "Failed"):
        return
    if kind in ("Succeeded", "Failed"):
        conditions = [_ended(each) for each in conditions]
    at = timestamp(now)
    status["conditions"] = [each for each in conditions if each["type"] != kind] + [
        {
            "type": kind,
            "status": value,
            "reason": reason,
            "message": f"PyTorchJob {job['metadata']['name']} {says}.",
            "lastUpdateTime": at,
            "lastTransitionTime": at,
        }
    ]


def _ended(condition: Json) -> Json:
    return {**condition, "status": "False"} if condition["type"] == "Running" else condition


def _changed(job: Json, status: Json) -> Json | None:
    return None if status == job.get("status") else status
