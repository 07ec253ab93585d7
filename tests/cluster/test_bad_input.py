"""What users get wrong: the run says what it is and how to mend it, nothing is lost or counted as a
fault, and it goes on by itself once that is mended."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api_cluster import ApiCluster, wait_for
from operated_runs import DEPLOYMENTS, JOBS, PODS, Document, a_house
from played import Part, Script, Server
from played.script import IMAGE, NO_NODE, SECRET
from prism_api.names import API_VERSION, PLURAL
from quick_runs import LONG, QUICK, STAYS, Open, assert_unharmed, first

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CONFIG = replace(SECRET, message='configmap "settings" not found')


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


def test_a_live_field_that_is_wrong_does_not_keep_a_run_from_being_cancelled(house: Open) -> None:
    wrong = {"template": {"spec": {"restartPolicy": "Always"}}}
    with house(lambda who: replace(LONG, run_s=60.0)) as at:
        run = at.run("run", "sft", "align")
        run.trains("sft")
        run.change(workers=wrong)
        run.until("it is told", lambda: run.condition("Accepted").get("status") == "False")
        assert run.attempt("sft")["number"] == 1
        run.change(cancel=True)
        run.ends("Cancelled")
        run.until("its pods go", at.is_empty)


def test_a_run_that_is_kept_by_somebodys_finalizer_gives_its_machines_back(house: Open) -> None:
    servers: Document = {"rollout": {"backend": "vllm"}}
    with house(lambda who: replace(LONG, run_s=60.0)) as at:
        run = at.run("run", "align", **servers)
        run.trains("align")
        mark = {"metadata": {"finalizers": ["example.com/backup"]}}
        at.cluster.admin.patch(API_VERSION, PLURAL, "run", at.namespace, mark)
        at.delete((API_VERSION, PLURAL), "run")
        kinds = (JOBS, PODS, DEPLOYMENTS)
        wait_for("nothing is held", lambda: not any(map(at.names, kinds)))
        assert run.document()["metadata"]["deletionTimestamp"]
        free = {"metadata": {"finalizers": None}}
        at.cluster.admin.patch(API_VERSION, PLURAL, "run", at.namespace, free)
        wait_for("all of it goes", at.is_empty)


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
