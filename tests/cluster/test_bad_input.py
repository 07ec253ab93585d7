"""What users get wrong: the run says what it is and how to mend it, nothing is lost or counted as a
fault, and it goes on by itself once that is mended."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api_cluster import ApiCluster, wait_for
from operated_runs import (
    CONFIGS,
    DEPLOYMENTS,
    JOBS,
    PODS,
    POLICIES,
    SECRETS,
    SERVICES,
    Document,
    House,
    Run,
    a_house,
)
from played import Part, Script, Server, Trainer
from played.script import IMAGE, NO_NODE, SECRET
from prism_api.names import UID_LABEL

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
QUICK = Part(0.02, 0.02, 0.1, stop_s=0.02, steps=5)
LONG = replace(QUICK, run_s=2.0, steps=40)
STAYS = Part(0.02, 0.02, float("inf"), stop_s=0.02)
CONFIG = replace(SECRET, message='configmap "settings" not found')

Open = Callable[..., AbstractContextManager[House]]


@pytest.fixture
def house(cluster: ApiCluster, namespace: str) -> Open:
    """Opens the namespace with parts for attempts: by default all of them quick."""

    def open_with(
        trainer: Callable[[Trainer], Part] = lambda who: QUICK,
        server: Callable[[Server], Part] = lambda who: STAYS,
    ) -> AbstractContextManager[House]:
        return a_house(cluster, namespace, Script(trainer, server))

    return open_with


def first(part: Part) -> Callable[[Trainer], Part]:
    """A part for first attempts; others are quick."""
    return lambda who: part if who.attempt == 1 else QUICK


def assert_unharmed(run: Run, restarts: int = 0) -> None:
    """It ends well, and nothing that happened counts as its fault."""
    status = run.ends()
    assert status["restarts"] == restarts
    for stage in status["stages"].values():
        assert stage["restarts"].get("faults", 0) == 0
        assert stage["state"] == "Succeeded"


# --- what the run needs and is not there ---


@pytest.mark.parametrize(
    ("obstacle", "words"),
    [
        (SECRET, ('secret "none" not found', "create it")),
        (CONFIG, ('configmap "settings" not found', "create it")),
        (NO_NODE, ("Insufficient nvidia.com/gpu", "nodes")),
    ],
    ids=["secret", "ConfigMap", "nodes"],
)
def test_what_a_pod_waits_for_is_told_and_the_same_attempt_goes_on_when_it_is_there(
    house: Open, obstacle: Any, words: tuple[str, ...]
) -> None:
    with house(first(replace(QUICK, obstacle=obstacle))) as at:
        run = at.run()
        assert run.blocked("run-sft-a1-worker-0", *words)["reason"] == "StartBlocked"
        event = run.event("CannotStart")
        assert event["type"] == "Warning"
        assert all(word in event["note"] for word in words)
        at.player.clear("run")
        assert_unharmed(run)


def test_an_image_that_cannot_be_pulled_is_told_and_another_one_replaces_the_attempt_at_once(
    house: Open,
) -> None:
    with house(first(replace(QUICK, obstacle=IMAGE))) as at:
        run = at.run()
        run.blocked("ImagePullBackOff", "registry.example/none:1", "set spec.images")
        assert "set spec.images" in run.event("CannotStart")["note"]
        run.change(images={"trainer": "registry.example/right:2"})
        assert_unharmed(run, restarts=1)
        images = {
            config["image"]
            for job in at.cluster.admin.list(*JOBS, at.namespace)
            for config in job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"][
                "containers"
            ]
        }
        assert images <= {"registry.example/right:2"}
        assert run.event("AttemptStopped")["note"].startswith("sft: attempt 1 was stopped")


def test_an_image_of_servers_is_replaced_as_a_trainers_is(house: Open) -> None:
    def server(who: Server) -> Part:
        return STAYS if who.number else replace(STAYS, obstacle=IMAGE)

    with house(server=server) as at:
        run = at.run("run", "align", rollout={"backend": "vllm"})
        run.blocked("run-align-rollout", "ImagePullBackOff", "set spec.images")
        assert not at.names(JOBS)
        run.change(images={"rollout": "registry.example/right:2"})
        assert_unharmed(run, restarts=1)


def test_a_namespace_without_quota_for_pods_is_told_and_the_run_goes_on_when_there_is_some(
    house: Open, cluster: ApiCluster, namespace: str
) -> None:
    with house() as at:
        cluster.admin.create(a_quota(namespace, {"pods": "0"}))
        wait_for("the quota is counted", lambda: is_counted(cluster, namespace))
        run = at.run()
        run.blocked("exceeded quota", "raise the namespace's ResourceQuota")
        assert "ResourceQuota" in run.event("CannotStart")["note"]
        cluster.admin.delete("v1", "resourcequotas", "quota", namespace)
        assert_unharmed(run)


def test_servers_without_quota_are_told_too(
    house: Open, cluster: ApiCluster, namespace: str
) -> None:
    with house() as at:
        cluster.admin.create(a_quota(namespace, {"pods": "0"}))
        wait_for("the quota is counted", lambda: is_counted(cluster, namespace))
        run = at.run("run", "align", rollout={"backend": "vllm"})
        run.blocked("run-align-rollout", "exceeded quota", "raise the namespace's ResourceQuota")
        cluster.admin.delete("v1", "resourcequotas", "quota", namespace)
        # The ReplicaSet's controller tries again at its own pace; any change of it is a reason to.
        at.patch(DEPLOYMENTS, "run-align-rollout", {"metadata": {"annotations": {"a": "b"}}})
        assert_unharmed(run)


def test_a_namespace_without_quota_for_jobs_is_told_and_the_run_goes_on_when_there_is_some(
    house: Open, cluster: ApiCluster, namespace: str
) -> None:
    with house() as at:
        cluster.admin.create(a_quota(namespace, {"count/pytorchjobs.kubeflow.org": "0"}))
        wait_for("the quota is counted", lambda: is_counted(cluster, namespace))
        run = at.run()
        run.blocked("run-sft-a1", "exceeded quota", "raise the namespace's ResourceQuota")
        cluster.admin.delete("v1", "resourcequotas", "quota", namespace)
        assert_unharmed(run)


def a_quota(namespace: str, hard: Document) -> Document:
    meta = {"name": "quota", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": hard}}


def is_counted(cluster: ApiCluster, namespace: str) -> bool:
    quota = cluster.admin.get("v1", "resourcequotas", "quota", namespace)
    return bool(quota.get("status", {}).get("used"))


KUEUE = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: localqueues.kueue.x-k8s.io}
spec:
  group: kueue.x-k8s.io
  scope: Namespaced
  names: {kind: LocalQueue, listKind: LocalQueueList, plural: localqueues, singular: localqueue}
  versions:
  - name: v1beta1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


def test_a_queue_that_does_not_exist_is_told_and_the_run_goes_on_when_it_admits(
    house: Open, cluster: ApiCluster, namespace: str
) -> None:
    with house() as at:
        run = at.run(queue={"name": "team-a"})
        run.blocked("queue.name", "no LocalQueue team-a", "create it")
        assert "LocalQueue team-a" in run.event("CannotStart")["note"]
        cluster.apply_yaml(KUEUE)
        queue = {"name": "team-a", "namespace": namespace}
        served = partial(cluster.admin.serves, "kueue.x-k8s.io/v1beta1", "LocalQueue")
        wait_for("LocalQueues", served)
        cluster.admin.create(
            {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "LocalQueue", "metadata": queue}
        )
        assert run.blocked("waits for admission")["reason"] == "Queued"
        at.patch(JOBS, "run-sft-a1", {"spec": {"runPolicy": {"suspend": False}}})
        assert_unharmed(run)


# --- specs that cannot be carried out in a cluster ---


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"storage": None}, "spec.storage"),
        ({"storage": {"uri": "file:///data"}}, "spec.storage.uri"),
        ({"model": {"uri": "file:///model"}}, "spec.model.uri"),
        (
            {"workers": {"template": {"spec": {"restartPolicy": "Always"}}}},
            "spec.workers.template.spec.restartPolicy",
        ),
        (
            {
                "rollout": {
                    "backend": "vllm",
                    "template": {"spec": {"containers": [{"image": "x"}]}},
                }
            },
            "spec.rollout.template.spec.containers[0].name",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_spec_that_cannot_be_carried_out_is_not_accepted_until_it_is_mended(
    house: Open, spec: Document, field: str
) -> None:
    with house() as at:
        run = at.run("run", "sft", "align", **spec)
        run.until("Accepted=False", lambda: run.condition("Accepted").get("status") == "False")
        accepted = run.condition("Accepted")
        assert accepted["reason"] == "InvalidSpec"
        assert field in accepted["message"]
        assert field in run.event("InvalidSpec")["note"]
        assert at.is_empty()
        mended: Document = {
            "storage": {"uri": "s3://bucket/runs"},
            "model": {"uri": "hf://org/model"},
            "workers": {"template": None},
        }
        run.change(**mended | {"rollout": {"template": None}})
        assert_unharmed(run)
        assert run.condition("Accepted")["status"] == "True"


# --- a user who edits the status ---

EDITS: dict[str, Callable[[Document], Document]] = {
    "counters": lambda s: {"restarts": 99, "stages": {"sft": {"restarts": {"preemptions": 7}}}},
    "a later number": lambda s: {"stages": {"align": {"attempt": {"number": 7}}}},
    "result removed": lambda s: {"stages": {"sft": {"result": None}}},
    "result of another stage": lambda s: {
        "stages": {"align": {"result": s["stages"]["sft"]["result"]}}
    },
    "state": lambda s: {"state": "Failed", "stages": {"align": {"state": "Succeeded"}}},
    "attempt ended": lambda s: {"stages": {"align": {"attempt": {"outcome": "interrupted"}}}},
    "attempt removed": lambda s: {"stages": {"align": {"attempt": None}}},
    "stage removed": lambda s: {"stages": {"align": None}},
    "first stage removed": lambda s: {"stages": {"sft": None}},
    "all removed": lambda s: dict.fromkeys(s),
    "conditions": lambda s: {"conditions": [], "message": "nothing to see"},
    "another job": lambda s: {"stages": {"align": {"attempt": {"jobUid": "f00"}}}},
    "a later stage": lambda s: {
        "stages": {"rlvr": {"attempt": {"number": 3, "startedAt": "2026-01-01T00:00:00Z"}}}
    },
}


@pytest.mark.parametrize("edit", EDITS)
def test_whatever_is_written_into_the_status_the_run_ends_well(house: Open, edit: str) -> None:
    """And no two attempts ever run together, nothing is left over."""
    with house(first(LONG)) as at:
        run = at.run("run", "sft", "align", "rlvr")
        run.trains("align")
        run.edit_status(**EDITS[edit](run.status))
        status = run.ends()
        assert status["currentStage"] == "rlvr"
        assert {s["state"] for s in status["stages"].values()} == {"Succeeded"}
        assert all("result" in s for s in status["stages"].values())
        run.until("its children go", at.is_empty)


def test_a_finished_run_whose_result_is_taken_away_proves_itself_again(house: Open) -> None:
    with house() as at:
        run = at.run("run", "sft", "align")
        before = run.ends()["stages"]
        run.until("its pods, which know it too, go", at.is_empty)
        run.edit_status(stages={"align": {"result": None}})
        run.until("it works again", lambda: run.attempt("align")["number"] == 2)
        after = run.ends()["stages"]
        assert after["sft"]["result"] == before["sft"]["result"]
        assert after["align"]["attempt"]["number"] == 2


# --- a user who edits or deletes children ---

SERVERS = {"rollout": {"backend": "vllm"}}
LABELLED = {"metadata": {"labels": {UID_LABEL: None}}}
UNSTAGED = {"metadata": {"labels": {"prism.dev/stage": None}}}
DISOWNED = {"metadata": {"ownerReferences": None}}


@pytest.mark.parametrize("edit", [LABELLED, UNSTAGED, DISOWNED], ids=["run", "stage", "owner"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (JOBS, "run-align-a1"),
        (CONFIGS, "run-align-a1"),
        (DEPLOYMENTS, "run-align-rollout"),
        (SERVICES, "run-align-rollout"),
        (POLICIES, "run-align-rollout"),
    ],
    ids=["PyTorchJob", "ConfigMap", "Deployment", "Service", "NetworkPolicy"],
)
def test_marks_that_are_taken_away_come_back_and_no_attempt_is_lost(
    house: Open, kind: Any, name: str, edit: Document
) -> None:
    with house(lambda who: LONG) as at:
        run = at.run("run", "align", **SERVERS)
        run.trains("align")
        before = at.get(kind, name)["metadata"]
        at.patch(kind, name, edit)

        def is_back() -> bool:
            now = at.get(kind, name)["metadata"]
            marks = ("uid", "labels", "ownerReferences")
            return all(now.get(mark) == before[mark] for mark in marks)

        wait_for("its marks are back", is_back, 10.0)
        assert_unharmed(run)
        kinds = (JOBS, PODS, DEPLOYMENTS, SERVICES, POLICIES, CONFIGS)
        run.until("its children go", lambda: not any(map(at.names, kinds)))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (CONFIGS, "run-align-a1"),
        (DEPLOYMENTS, "run-align-rollout"),
        (SERVICES, "run-align-rollout"),
        (POLICIES, "run-align-rollout"),
    ],
    ids=["ConfigMap", "Deployment", "Service", "NetworkPolicy"],
)
def test_a_deleted_child_is_made_again(house: Open, kind: Any, name: str) -> None:
    with house(lambda who: LONG) as at:
        run = at.run("run", "align", **SERVERS)
        run.trains("align")
        before = at.get(kind, name)["metadata"]["uid"]
        at.delete(kind, name)
        wait_for("another one", lambda: at.get(kind, name)["metadata"]["uid"] != before, 10.0)
        assert_unharmed(run)


@pytest.mark.parametrize(
    ("kind", "name"), [(JOBS, "run-sft-a1"), (PODS, "run-sft-a1-worker-0")], ids=["job", "pod"]
)
def test_a_job_or_pod_that_is_deleted_costs_its_attempt_and_counts_as_no_fault(
    house: Open, kind: Any, name: str
) -> None:
    with house(first(LONG)) as at:
        run = at.run()
        run.trains()
        at.delete(kind, name)
        assert_unharmed(run, restarts=1)
        assert "deleted" in run.event("AttemptPreempted")["note"]
        assert run.stage()["restarts"]["preemptions"] == 1


def test_a_job_that_is_deleted_before_its_pods_run_is_made_again_for_the_same_attempt(
    house: Open,
) -> None:
    def trainer(who: Trainer) -> Part:
        return QUICK if jobs else replace(QUICK, obstacle=NO_NODE)

    jobs: list[str] = []
    with house(trainer) as at:
        run = at.run()
        run.blocked("Unschedulable")
        jobs += at.player.record.uids("PyTorchJob", "run-sft-a1")
        at.delete(JOBS, "run-sft-a1")
        wait_for(
            "the next job", lambda: len(at.player.record.uids("PyTorchJob", "run-sft-a1")) == 2
        )
        assert_unharmed(run)


def test_a_secret_of_the_rollouts_that_is_deleted_is_made_again_for_pods_that_wait_for_it(
    house: Open,
) -> None:
    def server(who: Server) -> Part:
        missing = f'secret "{"".join(secrets)}" not found'
        return replace(STAYS, obstacle=replace(SECRET, message=missing)) if secrets else STAYS

    secrets: list[str] = []
    with house(first(LONG), server) as at:
        run = at.run("run", "align", **SERVERS)
        run.trains("align")
        (pod,) = (name for name in at.names(PODS) if "rollout" in name)
        secrets += at.names(SECRETS)
        at.delete(SECRETS, secrets[0])
        at.delete(PODS, pod)
        at.get(SECRETS, secrets[0])
        at.player.clear("run")
        assert_unharmed(run)


HAND_EDITS: dict[str, tuple[Any, str, Document, Callable[[Document], object]]] = {
    "replicas of servers": (
        DEPLOYMENTS,
        "run-align-rollout",
        {"spec": {"replicas": 3}},
        lambda d: d["spec"]["replicas"],
    ),
    "image of servers": (
        DEPLOYMENTS,
        "run-align-rollout",
        {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7}}}},
        lambda d: d["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
    ),
    "port of the Service": (
        SERVICES,
        "run-align-rollout",
        {"spec": {"selector": {"prism.dev/role": "nobody"}}},
        lambda d: d["spec"]["selector"],
    ),
    "the NetworkPolicy": (
        POLICIES,
        "run-align-rollout",
        {"spec": {"podSelector": {"matchLabels": {"prism.dev/role": "nobody"}}}},
        lambda d: d["spec"]["podSelector"],
    ),
    "restartPolicy of a job": (
        JOBS,
        "run-align-a1",
        {"spec": {"runPolicy": {"cleanPodPolicy": "None"}}},
        lambda d: d["spec"]["runPolicy"]["cleanPodPolicy"],
    ),
}


@pytest.mark.parametrize("edit", HAND_EDITS)
def test_what_is_edited_by_hand_is_as_it_should_be_again(house: Open, edit: str) -> None:
    kind, name, patch, value = HAND_EDITS[edit]
    with house(lambda who: LONG) as at:
        run = at.run("run", "align", **SERVERS)
        run.trains("align")
        before = value(at.get(kind, name))
        assert value(at.patch(kind, name, patch)) != before
        wait_for("as before", lambda: value(at.get(kind, name)) == before, 10.0)
        assert_unharmed(run)


def a_stranger(
    kind: tuple[str, str], namespace: str, name: str, owner: Document | None
) -> Document:
    """An object of a child's name that somebody else has made."""
    pods = {
        "metadata": {"labels": {"app": "x"}},
        "spec": {"containers": [{"name": "pytorch", "image": "x"}]},
    }
    specs: dict[tuple[str, str], Document] = {
        CONFIGS: {"kind": "ConfigMap", "data": {"whose": "mine"}},
        SERVICES: {"kind": "Service", "spec": {"ports": [{"port": 1}]}},
        POLICIES: {"kind": "NetworkPolicy", "spec": {"podSelector": {}}},
        DEPLOYMENTS: {
            "kind": "Deployment",
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": pods},
        },
        JOBS: {
            "kind": "PyTorchJob",
            "spec": {
                "runPolicy": {"suspend": True},
                "pytorchReplicaSpecs": {"Worker": {"replicas": 1, "template": pods}},
            },
        },
    }
    meta = {"name": name, "namespace": namespace} | (owner or {})
    return {"apiVersion": kind[0], "metadata": meta} | specs[kind]


@pytest.mark.parametrize("labelled", [False, True], ids=["no labels", "our labels"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (JOBS, "run-align-a1"),
        (CONFIGS, "run-align-a1"),
        (DEPLOYMENTS, "run-align-rollout"),
        (SERVICES, "run-align-rollout"),
        (POLICIES, "run-align-rollout"),
    ],
    ids=["PyTorchJob", "ConfigMap", "Deployment", "Service", "NetworkPolicy"],
)
def test_what_belongs_to_somebody_else_is_left_alone_and_the_run_says_so(
    house: Open, cluster: ApiCluster, namespace: str, kind: Any, name: str, labelled: bool
) -> None:
    with house() as at:
        run = at.run("run", "align", suspend=True, **SERVERS)
        other = cluster.admin.create(a_stranger(CONFIGS, namespace, "other", None))["metadata"]
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "controller": True}
        owner |= {"name": "other", "uid": other["uid"]}
        uid = run.document()["metadata"]["uid"]
        labels = {UID_LABEL: uid, "prism.dev/stage": "align", "prism.dev/attempt": "1"}
        meta = {"ownerReferences": [owner], "labels": labels} if labelled else None
        cluster.admin.create(a_stranger(kind, namespace, name, meta))
        before = at.get(kind, name)
        run.change(suspend=False)
        run.blocked(name, "belongs to somebody else", "delete or rename it")
        assert "belongs to somebody else" in run.event("CannotStart")["note"]
        after = at.get(kind, name)
        for member in ("spec", "data"):
            assert after.get(member) == before.get(member)
        assert after["metadata"].get("labels") == before["metadata"].get("labels")
        at.delete(kind, name)
        assert_unharmed(run)


def test_servers_of_another_template_are_made_anew_for_the_next_attempt_and_not_before(
    house: Open,
) -> None:
    """An apply would leave in the Deployment what its creation wrote."""
    with house(first(LONG)) as at:
        selector = {"spec": {"nodeSelector": {"gpu": "h200"}}}
        run = at.run("run", "align", rollout={"backend": "vllm", "template": selector})
        run.trains("align")
        before = at.get(DEPLOYMENTS, "run-align-rollout")
        assert before["spec"]["template"]["spec"]["nodeSelector"] == {"gpu": "h200"}
        run.change(rollout={"template": {"spec": None}})
        at.stays(
            "the servers in use",
            lambda: (
                at.get(DEPLOYMENTS, "run-align-rollout")["metadata"]["generation"]
                == before["metadata"]["generation"]
            ),
            0.7,
        )
        at.delete(PODS, "run-align-a1-worker-0")

        def is_new() -> bool:
            found = at.find(DEPLOYMENTS, "run-align-rollout")
            return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

        wait_for("new servers", is_new)
        spec = at.get(DEPLOYMENTS, "run-align-rollout")["spec"]["template"]["spec"]
        assert "nodeSelector" not in spec
        assert_unharmed(run, restarts=1)


# --- a cluster that lacks a part ---


@pytest.fixture(scope="module")
def bare() -> Iterator[ApiCluster]:
    """A cluster of these tests' own: what they take away, all others need."""
    with ApiCluster() as cluster:
        yield cluster


def test_an_operator_that_is_there_before_its_crd_begins_when_that_comes(bare: ApiCluster) -> None:
    namespace = bare.new_namespace()
    with a_house(bare, namespace, Script(lambda who: QUICK, lambda who: STAYS)) as at:
        time.sleep(1.0)
        bare.install_crds([ROOT / "crds" / "prismruns.prism.dev.yaml"])
        assert_unharmed(at.run())


def test_without_pytorchjobs_it_is_said_what_to_install_and_the_run_goes_on_when_it_is(
    bare: ApiCluster,
) -> None:
    bare.install_crds([ROOT / "crds" / "prismruns.prism.dev.yaml"])
    namespace, crds = bare.new_namespace(), ("apiextensions.k8s.io/v1", "customresourcedefinitions")
    crd = bare.admin.get(*crds, "pytorchjobs.kubeflow.org")
    with a_house(bare, namespace, Script(lambda who: QUICK, lambda who: STAYS)) as at:
        bare.admin.delete(*crds, "pytorchjobs.kubeflow.org")
        gone = partial(bare.admin.serves, "kubeflow.org/v1", "PyTorchJob")
        wait_for("they are gone", lambda: not gone())
        run = at.run()
        run.blocked("pytorchjobs.kubeflow.org", "install the Kubeflow Training Operator")
        assert "Training Operator" in run.event("CannotStart")["note"]
        meta = {key: crd["metadata"][key] for key in ("name", "annotations")}
        bare.admin.create({**crd, "metadata": meta, "status": None})
        assert_unharmed(run)
