"""Jobs in a test cluster whose player makes the same of each, and what is seen of them."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from api_cluster import ApiCluster, wait_for
from played import Part, Player, Script, from_kubeconfig
from prism_operator.planning.plan import TrainStep
from stage_objects import a_config_map, a_job, a_step

Document = dict[str, Any]
WELL = Part(0.02, 0.02, 0.2, stop_s=0.1)
STAYS = replace(WELL, run_s=math.inf)
JOBS = ("kubeflow.org/v1", "pytorchjobs")


def playing(cluster: ApiCluster, namespace: str, trainer: Part, server: Part = STAYS) -> Player:
    """A player for whom all trainers, and all servers, have the same part."""
    script = Script(lambda _: trainer, lambda _: server)
    return playing_by(cluster, namespace, script)


def playing_by(cluster: ApiCluster, namespace: str, script: Script) -> Player:
    """A player of a script of its own."""
    url, credentials = from_kubeconfig(cluster.admin_kubeconfig)
    return Player(url, credentials, script, namespace=namespace, port=0)


def started(
    cluster: ApiCluster, namespace: str, attempt: int = 1, replicas: int = 1
) -> tuple[TrainStep, str]:
    """An attempt's ConfigMap and job; returns the stage and the job's name."""
    step = a_step()
    cluster.admin.create(a_config_map(namespace, step, attempt))
    job = cluster.admin.create(a_job(namespace, step, attempt, replicas))
    return step, job["metadata"]["name"]


def pods_of(cluster: ApiCluster, namespace: str) -> list[Document]:
    """All of the namespace."""
    return cluster.admin.list("v1", "pods", namespace)


def pod(cluster: ApiCluster, namespace: str, name: str) -> Document:
    """Empty if there is none."""
    return cluster.admin.find("v1", "pods", name, namespace) or {}


def conditions(cluster: ApiCluster, namespace: str, job: str) -> dict[str, str]:
    """Of a job: their statuses by type."""
    status = cluster.admin.get(*JOBS, job, namespace).get("status", {})
    return {each["type"]: each["status"] for each in status.get("conditions", ())}


def ends(cluster: ApiCluster, namespace: str, job: str, how: str) -> None:
    """Wait until a job has that condition."""
    wait_for(f"{job} {how}", lambda: conditions(cluster, namespace, job).get(how) == "True", 10)


def terminated(pod: Document) -> Document:
    """How its container ended; empty if it has not."""
    state: Document = pod["status"]["containerStatuses"][0]["state"]
    ending: Document = state.get("terminated", {})
    return ending


def waiting(pod: Document) -> Document:
    """Why its container has not started; empty if it has."""
    statuses = pod.get("status", {}).get("containerStatuses", [{}])
    state: Document = statuses[0].get("state", {})
    reason: Document = state.get("waiting", {})
    return reason


def phase(cluster: ApiCluster, namespace: str, name: str) -> str:
    """Of a pod; empty if there is none."""
    found: str = pod(cluster, namespace, name).get("status", {}).get("phase", "")
    return found


def runs(cluster: ApiCluster, namespace: str, name: str) -> Callable[[], bool]:
    """Whether a pod runs, to be asked again."""
    return lambda: phase(cluster, namespace, name) == "Running"


def last_changes(player: Player, name: str) -> list[tuple[str, int | None]]:
    """What the player did to a pod, and with which exit codes."""
    return [(sent.what, sent.exit_code) for sent in player.record.sent if sent.name == name]
