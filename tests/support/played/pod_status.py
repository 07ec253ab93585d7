"""Statuses of pods, as a kubelet or scheduler writes them: pure."""

from datetime import datetime

from played.api import Json
from played.job_rules import timestamp
from played.script import Exit

KILLED = Exit(137, "", "Error")
NEVER_STARTED = Exit(
    137,
    "The container could not be located when the pod was terminated",
    "ContainerStatusUnknown",
)
NODE = "played"
"""Bound to by all pods; it need not exist where no controller judges nodes."""
_HOST = "127.0.0.1"


def unschedulable(message: str, now: datetime) -> Json:
    """No node for it."""
    why = {"reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [_condition("PodScheduled", False, now) | why]}


def waiting(pod: Json, now: datetime, reason: str = "ContainerCreating", says: str = "") -> Json:
    """It has a node, its containers wait."""
    state = {"reason": reason, **({"message": says} if says else {})}
    return {
        "phase": "Pending",
        "hostIP": _HOST,
        "startTime": timestamp(now),
        "conditions": _conditions(now, ready=False),
        "containerStatuses": _containers(pod, {"waiting": state}, ready=False),
    }


def running(pod: Json, now: datetime, ip: str, ready: bool, restarts: int = 0) -> Json:
    """Its containers run."""
    state = {"running": {"startedAt": timestamp(now)}}
    return {
        "phase": "Running",
        "hostIP": _HOST,
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": _conditions(now, ready=ready),
        "containerStatuses": _containers(pod, state, ready, restarts),
    }


def crash_looping(pod: Json, now: datetime, end: Exit, restarts: int) -> Json:
    """Its container has ended, and is not started again yet."""
    says = f"back-off restarting failed container in pod {pod['metadata']['name']}"
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": says}}
    statuses = _containers(pod, state, False, restarts)
    last = {"terminated": _terminated(end, now)}
    return {
        "phase": "Running",
        "conditions": _conditions(now, ready=False),
        "containerStatuses": [status | {"lastState": last} for status in statuses],
    }


def ended(pod: Json, now: datetime, end: Exit) -> Json:
    """Its containers have ended for good."""
    state = {"terminated": _terminated(end, now)}
    return {
        "phase": "Failed" if end.code else "Succeeded",
        "conditions": _conditions(now, ready=False),
        "containerStatuses": _containers(pod, state, ready=False),
    }


def evicted(pod: Json, now: datetime) -> Json:
    """The kubelet has ended it for want of something on its node."""
    says = "The node was low on resource: memory."
    status = ended(pod, now, KILLED)
    disrupted = disruption("TerminationByKubelet", says, now)
    conditions = [*status["conditions"], disrupted]
    return status | {"reason": "Evicted", "message": says, "conditions": conditions}


def disruption(reason: str, message: str, now: datetime) -> Json:
    """The condition of a pod whose machine is taken away."""
    target = _condition("DisruptionTarget", True, now)
    return target | {"reason": reason, "message": message}


def _terminated(end: Exit, now: datetime) -> Json:
    state = {
        "exitCode": int(end.code),
        "reason": end.reason or ("Error" if end.code else "Completed"),
        "startedAt": timestamp(now),
        "finishedAt": timestamp(now),
    }
    return state | ({"message": end.message} if end.message else {})


def _containers(pod: Json, state: Json, ready: bool, restarts: int = 0) -> list[Json]:
    return [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "started": "running" in state,
            "restartCount": restarts,
            "state": state,
        }
        for container in pod["spec"]["containers"]
    ]


def _conditions(now: datetime, ready: bool) -> list[Json]:
    return [
        _condition("PodScheduled", True, now),
        _condition("Initialized", True, now),
        _condition("ContainersReady", ready, now),
        _condition("Ready", ready, now),
    ]


def _condition(kind: str, value: bool, now: datetime) -> Json:
    return {"type": kind, "status": str(value), "lastTransitionTime": timestamp(now)}
