"""The test cluster itself: what other tests take for granted of it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from admin_client import ApiError
from api_cluster import ApiCluster, wait_for
from cluster_processes import PREFIX, ClusterFolder, remove_leftovers

pytestmark = pytest.mark.cluster


def config_map(name: str, namespace: str, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "data": {"key": "value"},
    }


def owned_by(owner: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
    ]


def pytorchjob(name: str, namespace: str) -> dict[str, Any]:
    pod = {"spec": {"containers": [{"name": "pytorch", "image": "none"}]}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 1, "template": pod}}},
    }


def test_objects_of_a_deleted_owner_are_collected(cluster: ApiCluster, namespace: str) -> None:
    admin = cluster.admin
    owner = admin.create(config_map("owner", namespace))
    admin.create(config_map("child", namespace, ownerReferences=owned_by(owner)))
    admin.create(config_map("bystander", namespace))
    admin.delete("v1", "configmaps", "owner", namespace)
    wait_for("the child's end", lambda: not admin.find("v1", "configmaps", "child", namespace))
    assert admin.find("v1", "configmaps", "bystander", namespace)


def test_objects_of_a_deleted_custom_resource_are_collected(
    cluster: ApiCluster, namespace: str
) -> None:
    admin = cluster.admin
    job = admin.create(pytorchjob("job", namespace))
    admin.create(config_map("child", namespace, ownerReferences=owned_by(job)))
    admin.delete("kubeflow.org/v1", "pytorchjobs", "job", namespace)
    wait_for("the child's end", lambda: not admin.find("v1", "configmaps", "child", namespace))


def test_a_deployment_makes_pods_which_nobody_runs(cluster: ApiCluster, namespace: str) -> None:
    labels = {"app": "web"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "web", "image": "none"}]},
    }
    cluster.admin.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        }
    )

    def pods() -> list[dict[str, Any]]:
        return cluster.admin.list("v1", "pods", namespace, labels="app=web")

    wait_for("two pods", lambda: len(pods()) == 2)
    assert {pod["status"]["phase"] for pod in pods()} == {"Pending"}


def test_a_test_may_play_the_kubelet(cluster: ApiCluster, namespace: str) -> None:
    admin = cluster.admin
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", "namespace": namespace},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }
    admin.create(pod)
    status = {"status": {"phase": "Running", "podIP": "10.0.0.1"}}
    admin.patch("v1", "pods", "pod", namespace, status, subresource="status")
    assert admin.get("v1", "pods", "pod", namespace)["status"]["phase"] == "Running"


def test_a_pod_on_a_node_ends_when_its_kubelet_says_so(cluster: ApiCluster, namespace: str) -> None:
    admin = cluster.admin
    spec = {"nodeName": "played", "containers": [{"name": "main", "image": "none"}]}
    metadata = {"name": "pod", "namespace": namespace}
    admin.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    admin.delete("v1", "pods", "pod", namespace)
    assert "deletionTimestamp" in admin.get("v1", "pods", "pod", namespace)["metadata"]
    admin.delete("v1", "pods", "pod", namespace, grace_s=0)
    assert admin.find("v1", "pods", "pod", namespace) is None


def test_a_service_account_may_do_what_its_role_says_and_no_more(
    cluster: ApiCluster, namespace: str
) -> None:
    for command in (
        ["create", "serviceaccount", "reader"],
        ["create", "role", "reader", "--verb=get", "--resource=configmaps"],
        [
            "create",
            "rolebinding",
            "reader",
            "--role=reader",
            f"--serviceaccount={namespace}:reader",
        ],
    ):
        done = cluster.kubectl(f"--namespace={namespace}", *command)
        assert done.returncode == 0, done.stderr
    cluster.admin.create(config_map("map", namespace))
    reader = cluster.kubeconfig_for(namespace, "reader")
    allowed = cluster.kubectl("get", "configmap", "map", kubeconfig=reader)
    assert allowed.returncode == 0, allowed.stderr
    for refused in (["delete", "configmap", "map"], ["get", "secrets"], ["get", "nodes"]):
        done = cluster.kubectl(*refused, kubeconfig=reader)
        assert done.returncode != 0
        assert "Forbidden" in done.stderr


def test_the_api_server_survives_a_crash_with_address_data_and_tokens(
    cluster: ApiCluster, namespace: str
) -> None:
    created = cluster.admin.create(config_map("map", namespace))
    account = cluster.kubeconfig_for(namespace, "default")
    cluster.kill_apiserver()
    assert not cluster.admin.answers("/readyz")
    cluster.start_apiserver()
    assert cluster.admin.get("v1", "configmaps", "map", namespace) == created
    who = cluster.kubectl("auth", "whoami", kubeconfig=account)
    assert f"system:serviceaccount:{namespace}:default" in who.stdout
    owner = cluster.admin.create(config_map("owner", namespace))
    cluster.admin.create(config_map("child", namespace, ownerReferences=owned_by(owner)))
    cluster.admin.delete("v1", "configmaps", "owner", namespace)
    wait_for(
        "the child's end",
        lambda: not cluster.admin.find("v1", "configmaps", "child", namespace),
    )


def test_an_api_server_lives_on_after_the_thread_that_restarted_it(cluster: ApiCluster) -> None:
    with ThreadPoolExecutor() as threads:
        threads.submit(cluster.restart_apiserver).result()
    assert cluster.admin.answers("/readyz")
    assert _runs(cluster.pids()["kube-apiserver"])


def test_a_hanging_api_server_answers_again_when_it_goes_on(cluster: ApiCluster) -> None:
    cluster.pause()
    try:
        state = psutil.Process(cluster.pids()["kube-apiserver"]).status()
        assert state == psutil.STATUS_STOPPED
    finally:
        cluster.resume()
    assert cluster.admin.answers("/readyz")


def test_pytorchjobs_are_served_and_validated(cluster: ApiCluster, namespace: str) -> None:
    job = pytorchjob("job", namespace)
    assert cluster.admin.create(job)["metadata"]["uid"]
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    damaged = {**job, "spec": {"pytorchReplicaSpecs": {"Worker": {**worker, "replicas": "two"}}}}
    damaged["metadata"] = {**job["metadata"], "name": "damaged"}
    with pytest.raises(ApiError, match="replicas") as refused:
        cluster.admin.create(damaged)
    assert refused.value.code == 422


def test_what_owns_by_a_kind_installed_later_is_collected_too(
    cluster: ApiCluster, namespace: str, tmp_path: Path
) -> None:
    schema = {"openAPIV3Schema": {"type": "object"}}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "owners.tests.prism.dev"},
        "spec": {
            "group": "tests.prism.dev",
            "scope": "Namespaced",
            "names": {"plural": "owners", "singular": "owner", "kind": "Owner"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    manifest = tmp_path / "crd.yaml"
    manifest.write_text(json.dumps(crd))
    cluster.install_crds([manifest])
    metadata = {"name": "owner", "namespace": namespace}
    owner = {"apiVersion": "tests.prism.dev/v1", "kind": "Owner", "metadata": metadata}
    owner = cluster.admin.create(owner)
    cluster.admin.create(config_map("child", namespace, ownerReferences=owned_by(owner)))
    cluster.admin.delete("tests.prism.dev/v1", "owners", "owner", namespace)
    wait_for(
        "the child's end",
        lambda: not cluster.admin.find("v1", "configmaps", "child", namespace),
    )


def test_server_side_apply_changes_what_it_states_and_nothing_else(
    cluster: ApiCluster, namespace: str
) -> None:
    cluster.admin.create({**config_map("map", namespace), "data": {"key": "old", "other": "kept"}})
    cluster.apply_yaml(
        "apiVersion: v1\nkind: ConfigMap\n"
        f"metadata: {{name: map, namespace: {namespace}}}\ndata: {{key: new}}\n"
    )
    data = cluster.admin.get("v1", "configmaps", "map", namespace)["data"]
    assert data == {"key": "new", "other": "kept"}


def test_a_killed_session_leaves_no_process_and_its_folder_goes_with_the_next(
    cluster: ApiCluster,
) -> None:
    script = (
        "import signal; from api_cluster import ApiCluster\n"
        "cluster = ApiCluster()\n"
        "print(cluster.folder, *cluster.pids().values(), flush=True)\n"
        "signal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as session:
        assert session.stdout is not None
        folder, *pids = session.stdout.readline().split()
        assert len(pids) == 3
        session.send_signal(signal.SIGKILL)
    wait_for("the end of all processes", lambda: not any(map(_runs, map(int, pids))), 10)
    assert Path(folder).is_dir()
    assert Path(folder) in remove_leftovers()
    assert not Path(folder).exists()
    assert cluster.folder.is_dir()


def test_what_still_runs_in_a_left_folder_is_ended_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = Path(tempfile.mkdtemp(prefix=PREFIX))
    used = ClusterFolder()
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    folders = (left, used.path, tmp_path / "elsewhere")
    processes = [subprocess.Popen([*sleep, f"{folder}/etcd"]) for folder in folders]
    try:
        # The kernel says that a program was started a moment before it shows its arguments.
        wait_for("their arguments", lambda: all(psutil.Process(p.pid).cmdline() for p in processes))
        assert remove_leftovers() == [left]
        assert [_runs(process.pid) for process in processes] == [False, True, True]
        assert not left.exists()
        assert used.path.is_dir()
    finally:
        for process in processes:
            process.kill()
            process.wait()
        used.remove()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
