"""The player behaves as Training Operator, scheduler and kubelet do, through the real API."""

import asyncio
import http.client
import json
import math
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api_cluster import ApiCluster, wait_for
from played import (
    Api,
    CrashLoop,
    Evicted,
    Exit,
    Obstacle,
    Part,
    Player,
    Record,
    Script,
    Trainer,
    Vanished,
    all_well,
    bad_days,
    from_kubeconfig,
)
from played.actions import Actions
from played.api import PODS
from prism_api.base import parse_json
from prism_api.reporting import ProgressReport, StageReport
from prism_operator.planning.plan import TrainStep
from stage_objects import a_config_map, a_deployment, a_job, a_step

pytestmark = pytest.mark.cluster

Document = dict[str, Any]
WELL = Part(0.02, 0.02, 0.2, stop_s=0.1)
STAYS = replace(WELL, run_s=math.inf)
SUPPORT = Path(__file__).parents[1] / "support"
JOBS = ("kubeflow.org/v1", "pytorchjobs")


def playing(cluster: ApiCluster, namespace: str, trainer: Part, server: Part = STAYS) -> Player:
    """A player for whom all trainers, and all servers, have the same part."""
    script = Script(lambda _: trainer, lambda _: server)
    return playing_by(cluster, namespace, script)


def playing_by(cluster: ApiCluster, namespace: str, script: Script) -> Player:
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
    return cluster.admin.list("v1", "pods", namespace)


def pod(cluster: ApiCluster, namespace: str, name: str) -> Document:
    return cluster.admin.find("v1", "pods", name, namespace) or {}


def conditions(cluster: ApiCluster, namespace: str, job: str) -> dict[str, str]:
    status = cluster.admin.get(*JOBS, job, namespace).get("status", {})
    return {each["type"]: each["status"] for each in status.get("conditions", ())}


def ends(cluster: ApiCluster, namespace: str, job: str, how: str) -> None:
    wait_for(f"{job} {how}", lambda: conditions(cluster, namespace, job).get(how) == "True", 10)


def terminated(pod: Document) -> Document:
    state: Document = pod["status"]["containerStatuses"][0]["state"]
    ending: Document = state.get("terminated", {})
    return ending


def waiting(pod: Document) -> Document:
    statuses = pod.get("status", {}).get("containerStatuses", [{}])
    state: Document = statuses[0].get("state", {})
    reason: Document = state.get("waiting", {})
    return reason


def phase(cluster: ApiCluster, namespace: str, name: str) -> str:
    found: str = pod(cluster, namespace, name).get("status", {}).get("phase", "")
    return found


def runs(cluster: ApiCluster, namespace: str, name: str) -> Callable[[], bool]:
    return lambda: phase(cluster, namespace, name) == "Running"


def last_changes(player: Player, name: str) -> list[tuple[str, int | None]]:
    return [(sent.what, sent.exit_code) for sent in player.record.sent if sent.name == name]


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


def test_a_status_is_not_written_to_another_pod_of_the_same_name(
    cluster: ApiCluster, namespace: str
) -> None:
    made = cluster.admin.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod", "namespace": namespace},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        }
    )
    former = made | {"metadata": made["metadata"] | {"uid": str(uuid.uuid4())}}

    async def write(thing: Document) -> bool:
        async with Api(*from_kubeconfig(cluster.admin_kubeconfig)) as api:
            return await Actions(api, Record()).set_status(PODS, thing, "", {"message": "hello"})

    assert not asyncio.run(write(former))
    assert "message" not in cluster.admin.get("v1", "pods", "pod", namespace)["status"]
    assert asyncio.run(write(made))


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


def test_pods_wait_for_a_quota_that_allows_them(cluster: ApiCluster, namespace: str) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": namespace},
        "spec": {"hard": {"pods": "0"}},
    }
    cluster.admin.create(quota)
    wait_for(
        "the quota", lambda: cluster.admin.get("v1", "resourcequotas", "none", namespace)["status"]
    )
    with playing(cluster, namespace, WELL) as player:
        _, job = started(cluster, namespace)
        wait_for("the refusal", lambda: player.record.refused, 10)
        cluster.admin.delete("v1", "resourcequotas", "none", namespace)
        ends(cluster, namespace, job, "Succeeded")
    assert "exceeded quota" in player.record.refused[0]


def test_a_second_player_takes_over_where_the_first_left(
    cluster: ApiCluster, namespace: str
) -> None:
    with playing(cluster, namespace, STAYS):
        _, job = started(cluster, namespace)
        wait_for("its pod", runs(cluster, namespace, f"{job}-worker-0"), 10)
    with playing(cluster, namespace, WELL) as second:
        ends(cluster, namespace, job, "Succeeded")
        rest = [("running", None), ("ended", 0)]
        name = f"{job}-worker-0"
        wait_for("what was done", lambda: last_changes(second, name) == rest, 10)


def test_the_player_as_a_process_records_what_it_saw_and_sent(
    cluster: ApiCluster, namespace: str, tmp_path: Path
) -> None:
    record = tmp_path / "record.jsonl"
    asked = ["--kubeconfig", str(cluster.admin_kubeconfig), "--namespace", namespace]
    asked += ["--port", "0", "--phase-s", "0.02", "--record", str(record)]
    command = [sys.executable, "-m", "played", *asked]
    path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as process:
        _, job = started(cluster, namespace)
        ends(cluster, namespace, job, "Succeeded")
        process.terminate()
    assert process.returncode == 0
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    came = [(line["kind"], line["name"]) for line in lines if line["event"] == "came"]
    assert ("Pod", f"{job}-worker-0") in came
    whats = [line["what"] for line in lines if line["event"] == "sent"]
    # Of what comes last, the answer may be under way when the process ends.
    assert {"Created", "created", "scheduled", "waiting", "running"} <= set(whats)


def test_first_attempts_of_bad_days_fail_and_second_ones_do_not() -> None:
    script = bad_days(seed=1, share=0.5)
    parts = [script.trainer(Trainer(f"run-{n}", "sft", 1, 0, 0)) for n in range(200)]
    well = script.trainer(Trainer("run-0", "sft", 2, 0, 0))
    assert 60 < sum(part != well for part in parts) < 140
    assert parts == [script.trainer(Trainer(f"run-{n}", "sft", 1, 0, 0)) for n in range(200)]


def test_the_player_outlives_the_api_server(cluster: ApiCluster, namespace: str) -> None:
    with playing(cluster, namespace, replace(WELL, run_s=2.0)) as player:
        _, job = started(cluster, namespace)
        wait_for("its pod", runs(cluster, namespace, f"{job}-worker-0"), 10)
        cluster.restart_apiserver()
        ends(cluster, namespace, job, "Succeeded")
    assert len(player.record.uids("Pod", f"{job}-worker-0")) == 1
    assert not player.record.troubles


def test_many_jobs_are_played_at_once(cluster: ApiCluster, namespace: str) -> None:
    steps = [a_step() for _ in range(30)]
    with playing_by(cluster, namespace, all_well()) as player:
        for number, step in enumerate(steps):
            names = {"name": f"run-{number}-sft-a1", "namespace": namespace}
            for child in (a_config_map(namespace, step), a_job(namespace, step)):
                cluster.admin.create(child | {"metadata": child["metadata"] | names})

        def all_done() -> bool:
            ended = [sent for sent in player.record.sent if sent.what == "Succeeded"]
            return len(ended) == len(steps)

        wait_for("all jobs", all_done, 120)
    assert len(player.record.ran) == len(steps)
    assert not player.record.together()
    assert not player.record.troubles
