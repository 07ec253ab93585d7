"""Played servers become ready or not; progress is had at the pods' own addresses."""

import http.client
from dataclasses import replace
from typing import Any

import pytest

from api_cluster import ApiCluster, wait_for
from played import CrashLoop, Script
from played_jobs import STAYS, WELL, phase, playing, playing_by, pod, pods_of, runs, started
from prism_api.base import parse_json
from prism_api.reporting import ProgressReport
from stage_objects import a_deployment, a_step

pytestmark = pytest.mark.cluster


def test_a_deployment_becomes_ready_and_its_pods_go_with_it(
    cluster: ApiCluster, namespace: str
) -> None:
    with playing(cluster, namespace, WELL) as player:
        name = cluster.admin.create(a_deployment(namespace, a_step()))["metadata"]["name"]

        def ready() -> bool:
            status = cluster.admin.get("apps/v1", "deployments", name, namespace)["status"]
            return bool(status.get("readyReplicas") == 2)

        wait_for("two servers", ready, 15)
        cluster.admin.delete("apps/v1", "deployments", name, namespace)
        wait_for("their end", lambda: not pods_of(cluster, namespace), 15)
    assert not player.record.troubles


def test_servers_may_never_become_ready_or_crash_again_and_again(
    cluster: ApiCluster, namespace: str
) -> None:
    loop = replace(STAYS, run_s=0.05, ending=CrashLoop(1, "no GPU"), ready=False)
    never = replace(STAYS, ready=False)
    script = Script(lambda _: WELL, lambda who: loop if who.number else never)
    with playing_by(cluster, namespace, script):
        name = cluster.admin.create(a_deployment(namespace, a_step()))["metadata"]["name"]

        def restarts() -> int:
            found = [each.get("status", {}) for each in pods_of(cluster, namespace)]
            statuses = [each.get("containerStatuses", [{}])[0] for each in found]
            return sum(each.get("restartCount", 0) for each in statuses)

        wait_for("two restarts", lambda: restarts() >= 2, 15)
        status = cluster.admin.get("apps/v1", "deployments", name, namespace)["status"]
        assert "readyReplicas" not in status


def test_progress_advances_at_the_pods_own_address(cluster: ApiCluster, namespace: str) -> None:
    part = replace(WELL, run_s=4.0, steps=100, hangs_at=40)
    player = playing(cluster, namespace, part)
    with player:
        step, job = started(cluster, namespace)
        wait_for("its pod", runs(cluster, namespace, f"{job}-worker-0"), 10)
        ip = pod(cluster, namespace, f"{job}-worker-0")["status"]["podIP"]

        def progress() -> ProgressReport:
            connection = http.client.HTTPConnection(ip, player.port, timeout=5)
            connection.request("GET", "/progress")
            answer = connection.getresponse().read()
            connection.close()
            return parse_json(ProgressReport, answer, "/progress")

        early = progress()
        assert (early.uid, early.stage, early.attempt) == (step.run.uid, step.kind, 1)
        wait_for("a later step", lambda: progress().step > early.step, 10)
        wait_for("the step where it hangs", lambda: progress().step == 40, 10)
        assert phase(cluster, namespace, f"{job}-worker-0") == "Running"


@pytest.mark.parametrize("fault", ["not yet", "cut", "silent", "rubbish"])
def test_progress_may_not_be_had(cluster: ApiCluster, namespace: str, fault: Any) -> None:
    with playing(cluster, namespace, replace(STAYS, progress=fault)) as player:
        _, job = started(cluster, namespace)
        wait_for("its pod", runs(cluster, namespace, f"{job}-worker-0"), 10)
        ip = pod(cluster, namespace, f"{job}-worker-0")["status"]["podIP"]
        connection = http.client.HTTPConnection(ip, player.port, timeout=0.5)
        connection.request("GET", "/progress")
        try:
            answer = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            answer = type(error).__name__
        connection.close()
    seen = {"not yet": "", "cut": "RemoteDisconnected", "silent": "TimeoutError"}
    assert answer == seen.get(fault, "<html>no such thing</html>")
    assert not player.record.troubles
