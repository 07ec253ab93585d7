"""The player behaves as Training Operator, scheduler and kubelet do, through the real API."""

from dataclasses import replace
from typing import Any

import pytest

from api_cluster import ApiCluster, wait_for
from played import Evicted, Exit, Obstacle, Script, Vanished
from played_jobs import (
    JOBS,
    STAYS,
    WELL,
    conditions,
    ends,
    last_changes,
    phase,
    playing,
    playing_by,
    pod,
    pods_of,
    runs,
    started,
    terminated,
    waiting,
)
from prism_api.base import parse_json
from prism_api.reporting import StageReport

pytestmark = pytest.mark.cluster


def test_a_job_succeeds_and_rank_0_leaves_the_proof_that_its_config_asks_for(
    cluster: ApiCluster, namespace: str
) -> None:
    with playing(cluster, namespace, WELL) as player:
        step, job = started(cluster, namespace, replicas=2)
        ends(cluster, namespace, job, "Succeeded")
    first, second = (pod(cluster, namespace, f"{job}-worker-{index}") for index in (0, 1))
    report = parse_json(StageReport, terminated(first)["message"], "message")
    assert report.result.config_hash == step.config(1, None).config_hash
    assert report.result.run == step.run
    assert terminated(second)["exitCode"] == 0
    assert "message" not in terminated(second)
    assert first["metadata"]["labels"]["training.kubeflow.org/replica-index"] == "0"
    status = cluster.admin.get(*JOBS, job, namespace)["status"]
    assert status["replicaStatuses"]["Worker"]["succeeded"] == 2
    assert [each["type"] for each in status["conditions"]] == ["Created", "Running", "Succeeded"]
    assert status["completionTime"]
    assert len(player.record.uids("Pod", first["metadata"]["name"])) == 1
    assert not player.record.created_twice("Pod")
    assert not player.record.troubles


def test_the_first_failed_pod_fails_the_job_and_ends_the_others(
    cluster: ApiCluster, namespace: str
) -> None:
    crash = replace(WELL, ending=Exit(70, "loss is not finite"))
    script = Script(lambda who: crash if who.index == 1 else STAYS, lambda _: STAYS)
    with playing_by(cluster, namespace, script) as player:
        _, job = started(cluster, namespace, replicas=2)
        ends(cluster, namespace, job, "Failed")
        wait_for("rank 0's end", lambda: not pod(cluster, namespace, f"{job}-worker-0"), 10)
    failed = terminated(pod(cluster, namespace, f"{job}-worker-1"))
    assert (failed["exitCode"], failed["message"]) == (70, "loss is not finite")
    assert conditions(cluster, namespace, job)["Running"] == "False"
    assert not player.record.troubles


def test_a_suspended_job_has_no_pods_until_it_is_resumed(
    cluster: ApiCluster, namespace: str
) -> None:
    def suspend(job: str, value: bool) -> None:
        patch = {"spec": {"runPolicy": {"suspend": value}}}
        cluster.admin.patch(*JOBS, job, namespace, patch)

    with playing(cluster, namespace, STAYS) as player:
        _, job = started(cluster, namespace)
        wait_for("its pod", runs(cluster, namespace, f"{job}-worker-0"), 10)
        suspend(job, True)
        ends(cluster, namespace, job, "Suspended")
        wait_for("no pod", lambda: not pods_of(cluster, namespace), 10)
        suspend(job, False)
        wait_for("a new pod", runs(cluster, namespace, f"{job}-worker-0"), 10)
        assert conditions(cluster, namespace, job)["Suspended"] == "False"
    assert len(player.record.uids("Pod", f"{job}-worker-0")) == 2


def test_a_deleted_jobs_pods_save_within_their_grace_and_then_go(
    cluster: ApiCluster, namespace: str
) -> None:
    slow = replace(STAYS, stop_s=1.0)
    with playing(cluster, namespace, slow) as player:
        _, job = started(cluster, namespace)
        name = f"{job}-worker-0"
        wait_for("its pod", runs(cluster, namespace, name), 10)
        cluster.admin.delete(*JOBS, job, namespace)
        wait_for(
            "SIGTERM",
            lambda: "deletionTimestamp" in pod(cluster, namespace, name).get("metadata", {}),
            10,
        )
        assert phase(cluster, namespace, name) == "Running"
        wait_for("its end", lambda: not pod(cluster, namespace, name), 10)
        saved = [("stopped", 75), ("removed", None)]
        wait_for("what was done", lambda: last_changes(player, name)[-2:] == saved, 10)
    (ran,) = player.record.ran.values()
    assert ran.ended_at is not None
    assert not player.record.troubles


def test_a_pod_beyond_its_grace_is_killed(cluster: ApiCluster, namespace: str) -> None:
    with playing(cluster, namespace, replace(STAYS, stop_s=60)) as player:
        _, job = started(cluster, namespace)
        name = f"{job}-worker-0"
        wait_for("its pod", runs(cluster, namespace, name), 10)
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        cluster.admin.request("DELETE", path, {"gracePeriodSeconds": 1})
        # What the Training Operator makes of a running pod that is being deleted.
        ends(cluster, namespace, job, "Failed")
        wait_for("its end", lambda: last_changes(player, name)[-1] == ("removed", None), 10)
    assert last_changes(player, name)[-2] == ("stopped", 137)


@pytest.mark.parametrize(
    ("obstacle", "seen"),
    [
        (Obstacle("ImagePullBackOff", "no such image"), "no such image"),
        (Obstacle("CreateContainerConfigError", 'secret "x" not found'), 'secret "x" not found'),
        (Obstacle("Unschedulable", "0/8 nodes are available"), "0/8 nodes are available"),
    ],
)
def test_an_obstacle_is_told_and_cleared(
    cluster: ApiCluster, namespace: str, obstacle: Obstacle, seen: str
) -> None:
    with playing(cluster, namespace, replace(WELL, obstacle=obstacle)) as player:
        step, job = started(cluster, namespace)

        def told() -> bool:
            found = pod(cluster, namespace, f"{job}-worker-0")
            scheduled = [
                each.get("message")
                for each in found.get("status", {}).get("conditions", ())
                if each.get("reason") == "Unschedulable"
            ]
            return seen in (waiting(found).get("message"), *scheduled)

        wait_for("the obstacle", told, 10)
        player.clear(step.run.name)
        ends(cluster, namespace, job, "Succeeded")


@pytest.mark.parametrize("by", ["kubelet", "scheduler", "api"])
def test_an_evicted_pod_says_so(cluster: ApiCluster, namespace: str, by: Any) -> None:
    with playing(cluster, namespace, replace(WELL, ending=Evicted(by), stop_s=0.5)):
        _, job = started(cluster, namespace)

        def disrupted() -> bool:
            status = pod(cluster, namespace, f"{job}-worker-0").get("status", {})
            return any(c["type"] == "DisruptionTarget" for c in status.get("conditions", ()))

        wait_for("the condition", disrupted, 10)
        ends(cluster, namespace, job, "Failed")


def test_a_vanished_pod_is_replaced_under_its_name(cluster: ApiCluster, namespace: str) -> None:
    vanishes = replace(WELL, ending=Vanished())
    script = Script(lambda who: WELL if who.incarnation else vanishes, lambda _: STAYS)
    with playing_by(cluster, namespace, script) as player:
        _, job = started(cluster, namespace)
        ends(cluster, namespace, job, "Succeeded")
    assert len(player.record.uids("Pod", f"{job}-worker-0")) == 2
    assert ("vanished", None) in last_changes(player, f"{job}-worker-0")
    assert list(player.record.created_twice("Pod")) == [f"{namespace}/{job}-worker-0"]
