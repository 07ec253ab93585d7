"""A user who edits or deletes children of a run: they are made again or repaired, what belongs to
somebody else is left alone, and nothing counts as the run's fault."""

from collections.abc import Callable
from dataclasses import replace
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
)
from played import Part, Server, Trainer
from played.script import NO_NODE, SECRET
from prism_api.names import UID_LABEL
from quick_runs import LONG, QUICK, STAYS, Open, assert_unharmed, first

pytestmark = pytest.mark.cluster

SERVERS = {"rollout": {"backend": "vllm"}}
LABELLED = {"metadata": {"labels": {UID_LABEL: None}}}
UNSTAGED = {"metadata": {"labels": {"prism.dev/stage": None}}}
DISOWNED = {"metadata": {"ownerReferences": None}}
EVERY_CHILD = pytest.mark.parametrize(
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


@pytest.mark.parametrize("edit", [LABELLED, UNSTAGED, DISOWNED], ids=["run", "stage", "owner"])
@EVERY_CHILD
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
@EVERY_CHILD
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
