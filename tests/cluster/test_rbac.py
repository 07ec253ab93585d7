"""The operator works with exactly the chart's permissions: nothing that it asks for is refused, and
every verb that is granted is used."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api_cluster import ApiCluster, wait_for
from operated_runs import (
    CONFIGS,
    DEPLOYMENTS,
    JOBS,
    POLICIES,
    SERVICES,
    Document,
    House,
    a_run,
)
from operator_replicas import Replica, a_replica
from played import Exit, Part, Player, Script, Server, Trainer, from_kubeconfig
from played.script import NO_NODE
from prism_api.names import API_VERSION, GROUP, MANAGER, PLURAL, UID_LABEL
from prism_operator.manifests.rbac import (
    OWN_PERMISSIONS,
    PERMISSIONS,
    build_cluster_wide,
    build_namespaced,
)

pytestmark = pytest.mark.cluster

Right = tuple[str, str, str]
"""API group, resource with its subresource, verb."""
GRANTED: set[Right] = {
    (p.group, p.resource, verb) for p in PERMISSIONS + OWN_PERMISSIONS for verb in p.verbs
}
ASKED_BY_ADMISSION = {(GROUP, f"{PLURAL}/finalizers", "update")}
"""No request: the API server asks whether it is granted when a child is created."""
QUICK = Part(0.02, 0.02, 0.1, stop_s=0.02, steps=5, progress="not yet")
STAYS = replace(QUICK, run_s=math.inf)


def part_of(who: Trainer) -> Part:
    """The first attempt at alignment crashes, "slow" waits for a node, "held" runs."""
    if who.run == "slow":
        return replace(QUICK, obstacle=NO_NODE)
    if who.run == "held":
        return STAYS
    if (who.stage, who.attempt) == ("align", 1):
        return replace(QUICK, ending=Exit(1, "crashed"))
    return QUICK


def server_of(who: Server) -> Part:
    return STAYS


@contextmanager
def an_operator(
    cluster: ApiCluster, home: str, served: list[str], folder: Path, manifests: list[Document]
) -> Iterator[tuple[House, Replica]]:
    """With the given roles and no other rights, and a player for the first namespace."""
    for manifest in manifests:
        cluster.admin.apply(manifest)
    kubeconfig = cluster.kubeconfig_for(home, MANAGER)
    url, credentials = from_kubeconfig(cluster.admin_kubeconfig)
    script = Script(part_of, server_of)
    settings = {"PRISM_NAMESPACES": ",".join(served)}
    with Player(url, credentials, script, namespace=home, port=0) as player:
        with a_replica(kubeconfig, home, "operator", folder, settings) as replica:
            wait_for("it leads", lambda: replica.leads)
            yield House(cluster, home, player, None), replica  # type: ignore[arg-type]
        assert not player.record.troubles


def do_everything(at: House) -> None:
    """What makes the operator use all of its rights."""
    servers: dict[str, Any] = {"rollout": {"backend": "vllm"}}
    slow = at.run("slow", queue={"name": "nowhere"})
    held = at.run("held", "align", **servers)
    whole = at.run("whole", "sft", "align", "rlvr", **servers)
    held.until("it trains", lambda: "trainerStartedAt" in held.attempt("align"))
    # What a watch says of a run may be old: before it acts on that, the operator asks.
    mark = {"metadata": {"annotations": {"seen": "by its watch only"}}}
    at.cluster.admin.patch(API_VERSION, PLURAL, "held", at.namespace, mark)
    for kind in (SERVICES, POLICIES, DEPLOYMENTS):
        edit_and_delete(at, kind, "held-align-rollout")
    at.patch(CONFIGS, "held-align-a1", {"metadata": {"labels": {UID_LABEL: None}}})
    wait_for("it is claimed", lambda: is_labelled(at, CONFIGS, "held-align-a1"))
    at.patch(JOBS, "held-align-a1", {"metadata": {"labels": {UID_LABEL: None}}})
    wait_for("it is claimed", lambda: is_labelled(at, JOBS, "held-align-a1"))
    at.cluster.admin.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "taken-sft-a1", "namespace": at.namespace},
        }
    )
    taken = at.run("taken")
    taken.blocked("taken-sft-a1", "belongs to somebody else")
    held.change(suspend=True)
    held.ends("Suspended")
    whole.ends()
    assert whole.stage("align")["attempt"]["number"] == 2
    slow.blocked("no LocalQueue nowhere")
    slow.change(queue=None)
    wait_for("an unqueued job", lambda: "slow-sft-a2" in at.names(JOBS))
    slow.blocked("Unschedulable")
    slow.until("its Events were asked for", lambda: has_listed_events(at))
    at.cluster.admin.delete(API_VERSION, PLURAL, "slow", at.namespace)


def edit_and_delete(at: House, kind: tuple[str, str], name: str) -> None:
    """A mark of a child is taken away, and then the child."""
    at.patch(kind, name, {"metadata": {"labels": {"prism.dev/run": None}}})
    wait_for(
        "its label is back",
        lambda: "prism.dev/run" in at.get(kind, name)["metadata"]["labels"],
    )
    uid = at.get(kind, name)["metadata"]["uid"]
    at.delete(kind, name)
    wait_for("another one", lambda: at.get(kind, name)["metadata"]["uid"] != uid)


def is_labelled(at: House, kind: tuple[str, str], name: str) -> bool:
    return UID_LABEL in at.get(kind, name)["metadata"]["labels"]


def has_listed_events(at: House) -> bool:
    asked = at.cluster.requests_of(at.namespace, MANAGER)
    return any(right_of(one) == ("", "events", "list") for one in asked)


def right_of(request: Document) -> Right | None:
    """What a request needs; nothing for those that are not about objects, such as discovery."""
    about = request.get("objectRef")
    if about is None or "resource" not in about:
        return None
    parts = (about["resource"], about.get("subresource"))
    return about.get("apiGroup", ""), "/".join(filter(None, parts)), request["verb"]


def assert_exact(cluster: ApiCluster, home: str) -> None:
    """Nothing was refused, everything was used."""
    asked = cluster.requests_of(home, MANAGER)
    assert asked, "the audit log is empty"
    refused = [
        (one["verb"], one["requestURI"])
        for one in asked
        if one.get("annotations", {}).get("authorization.k8s.io/decision") != "allow"
        or is_forbidden(one, home)
    ]
    assert not refused, f"lacks rights for {refused}"
    used = {right for right in map(right_of, asked) if right}
    missing = GRANTED - ASKED_BY_ADMISSION - used
    assert not missing, f"granted and never used: {sorted(missing)}"
    assert used <= GRANTED, f"used and not granted: {sorted(used - GRANTED)}"


def is_forbidden(request: Document, home: str) -> bool:
    """Whether admission refused it; not what comes to namespaces of other tests, which end."""
    place = request.get("objectRef", {}).get("namespace")
    return bool(place == home and request.get("responseStatus", {}).get("code") == 403)


def test_namespaced_mode_needs_no_cluster_role_and_uses_every_right(
    cluster: ApiCluster, namespace: str, tmp_path: Path
) -> None:
    """Neither kopf nor we ask for CRDs, namespaces, or anything elsewhere."""
    manifests = build_namespaced(namespace, [namespace])
    assert not [one for one in manifests if one["kind"].startswith("Cluster")]
    with an_operator(cluster, namespace, [namespace], tmp_path, manifests) as (at, replica):
        do_everything(at)
        assert replica.answer("/healthz")[0] == 200
    assert_exact(cluster, namespace)


def test_cluster_wide_mode_uses_every_right_of_its_cluster_role(
    cluster: ApiCluster, namespace: str, tmp_path: Path
) -> None:
    manifests = build_cluster_wide(namespace)
    try:
        with an_operator(cluster, namespace, [], tmp_path, manifests) as (at, _):
            do_everything(at)
        assert_exact(cluster, namespace)
    finally:
        for plural in ("clusterrolebindings", "clusterroles"):
            cluster.admin.delete("rbac.authorization.k8s.io/v1", plural, MANAGER)


@pytest.mark.parametrize("right", sorted(ASKED_BY_ADMISSION))
def test_without_the_right_to_finalise_runs_no_child_could_block_their_deletion(
    cluster: ApiCluster, namespace: str, right: Right
) -> None:
    """As clusters with OwnerReferencesPermissionEnforcement have it."""
    manifests = build_namespaced(namespace, [namespace])
    for manifest in manifests:
        cluster.admin.apply(manifest)
    run = cluster.admin.create(a_run(namespace))["metadata"]
    owner = {"apiVersion": API_VERSION, "kind": "PrismRun", "name": "run", "uid": run["uid"]}
    child = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "child",
            "namespace": namespace,
            "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
        },
    }
    kubeconfig = cluster.kubeconfig_for(namespace, MANAGER)

    def creates() -> bool:
        text = json.dumps(child)
        command = ("create", "--dry-run=server", "-f", "-")
        asked = cluster.kubectl(*command, input=text, kubeconfig=kubeconfig)
        return asked.returncode == 0

    wait_for("its rights", creates)
    role = next(m for m in manifests if m["metadata"]["name"] == MANAGER and m["kind"] == "Role")
    rules = [rule for rule in role["rules"] if right[1] not in rule["resources"]]
    assert len(rules) == len(role["rules"]) - 1
    cluster.admin.patch(
        "rbac.authorization.k8s.io/v1", "roles", MANAGER, namespace, {"rules": rules}
    )
    wait_for("it is refused", lambda: not creates())
