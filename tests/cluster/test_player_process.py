"""The player is hindered, followed, a process of its own, cut off and busy, and nothing is lost."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from api_cluster import ApiCluster, wait_for
from played import Api, Record, Trainer, all_well, bad_days, from_kubeconfig
from played.actions import Actions
from played.api import PODS
from played_jobs import (
    STAYS,
    WELL,
    Document,
    ends,
    last_changes,
    playing,
    playing_by,
    runs,
    started,
)
from stage_objects import a_config_map, a_job, a_step

pytestmark = pytest.mark.cluster

SUPPORT = Path(__file__).parents[1] / "support"


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
