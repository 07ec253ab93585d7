"""Children on a real API server: accepted, under the `restricted` profile, without false drift."""

from secrets import token_hex
from typing import Any

import pytest

from admin_client import ApiError
from api_cluster import ApiCluster
from child_builders import large_children, pod_template_of, small_children
from prism_operator.manifests.context import Manifest
from prism_operator.manifests.drift import differs, enforced
from prism_operator.manifests.rbac import build_cluster_wide, build_namespaced
from run_builders import a_document

pytestmark = pytest.mark.cluster

PLURALS = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "NetworkPolicy": "networkpolicies",
    "Pod": "pods",
    "PyTorchJob": "pytorchjobs",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}
MANAGER = {"fieldManager": "prism-operator"}
AWKWARD: dict[str, Any] = {
    "spec": {
        "hostNetwork": False,
        "tolerations": [],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "2048Mi"}}],
        "containers": [
            {
                "name": "pytorch",
                "env": [{"name": "EMPTY", "value": ""}],
                "resources": {
                    "limits": {"cpu": "1500m", "memory": "1024Mi"},
                    "requests": {"cpu": 0.5, "memory": "1.5e3"},
                },
            }
        ],
    }
}
"""Zeros and quantities that the API server writes in another way."""


def path(manifest: Manifest, name: str = "") -> str:
    """Of the collection, or of one object."""
    version, metadata = manifest["apiVersion"], manifest["metadata"]
    place = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    root = "apis" if "/" in version else "api"
    return f"/{root}/{version}{place}/{PLURALS[manifest['kind']]}" + f"/{name}" * bool(name)


def create(cluster: ApiCluster, manifest: Manifest, **query: str) -> Manifest:
    """What the API server makes of it; raises ApiError where it refuses."""
    strict = {"fieldValidation": "Strict"} | MANAGER | query
    return cluster.admin.request("POST", path(manifest), manifest, strict)


def read(cluster: ApiCluster, manifest: Manifest) -> Manifest:
    return cluster.admin.request("GET", path(manifest, manifest["metadata"]["name"]))


def apply(cluster: ApiCluster, manifest: Manifest) -> Manifest:
    """As the operator repairs drift."""
    where = path(manifest, manifest["metadata"]["name"])
    content_type = "application/apply-patch+yaml"
    query = MANAGER | {"force": "true"}
    return cluster.admin.request("PATCH", where, manifest, query, content_type)


def patch(cluster: ApiCluster, manifest: Manifest, change: Manifest) -> None:
    """As anybody else."""
    where = path(manifest, manifest["metadata"]["name"])
    cluster.admin.request("PATCH", where, change, content_type="application/merge-patch+json")


def owned(cluster: ApiCluster, namespace: str, manifests: list[Manifest]) -> list[Manifest]:
    """The same in a namespace, of a run that is there: what has no owner is collected."""
    run = a_document({"metadata.namespace": namespace, "metadata.name": f"owner-{token_hex(4)}"})
    uid = cluster.admin.create(run)["metadata"]["uid"]
    (owner,) = manifests[0]["metadata"]["ownerReferences"]
    owner = owner | {"uid": uid, "name": run["metadata"]["name"]}
    place = {"namespace": namespace, "ownerReferences": [owner]}
    return [one | {"metadata": one["metadata"] | place} for one in manifests]


@pytest.mark.parametrize("template", [{}, AWKWARD], ids=["plain", "awkward"])
def test_every_child_is_accepted_and_has_not_drifted(
    cluster: ApiCluster, namespace: str, template: Manifest
) -> None:
    """Unknown fields would be errors."""
    children = small_children() + large_children(template=template, namespace=namespace)
    for child in owned(cluster, namespace, children):
        assert not differs(child, create(cluster, child))
        assert not differs(child, read(cluster, child))


def test_what_is_taken_away_or_changed_by_hand_is_drift_until_it_is_applied_again(
    cluster: ApiCluster, namespace: str
) -> None:
    children = owned(cluster, namespace, large_children(namespace=namespace))
    by_hand: dict[str, Manifest] = {
        "Deployment": {"spec": {"replicas": 0}},
        "Service": {"spec": {"selector": {"prism.dev/role": "trainer"}}},
        "NetworkPolicy": {"spec": {"ingress": [{}]}},
        "PyTorchJob": {"metadata": {"labels": {"prism.dev/attempt": None}}},
        "ConfigMap": {"metadata": {"ownerReferences": None}},
    }
    edited = [child for child in children if child["kind"] in by_hand]
    assert len(edited) == len(by_hand)
    for child in edited:
        create(cluster, child)
        patch(cluster, child, by_hand[child["kind"]])
        assert differs(child, read(cluster, child))
        assert not differs(child, apply(cluster, enforced(child)))


def test_an_apply_takes_away_nothing_that_the_creation_wrote(
    cluster: ApiCluster, namespace: str
) -> None:
    """Why a Deployment of another template is deleted and created."""
    selector = {"spec": {"nodeSelector": {"gpu": "h200"}}}
    before, after = (
        next(
            child
            for child in large_children(template=template, namespace=namespace)
            if child["kind"] == "Deployment"
        )
        for template in (selector, {})
    )
    before, after = owned(cluster, namespace, [before, after])
    create(cluster, before)
    assert pod_template_of(apply(cluster, after))["spec"]["nodeSelector"] == {"gpu": "h200"}


def test_a_queued_job_stays_admitted_when_it_is_applied_again(
    cluster: ApiCluster, namespace: str
) -> None:
    job = owned(cluster, namespace, large_children(namespace=namespace))[-1]
    assert create(cluster, job)["spec"]["runPolicy"]["suspend"] is True
    patch(cluster, job, {"spec": {"runPolicy": {"suspend": False}}})
    assert not differs(job, read(cluster, job))
    assert apply(cluster, enforced(job))["spec"]["runPolicy"]["suspend"] is False


def test_pods_are_admitted_under_the_restricted_profile(
    cluster: ApiCluster, namespace: str
) -> None:
    """And the same pod as root is not: the profile is enforced."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.admin.patch("v1", "namespaces", namespace, None, {"metadata": {"labels": labels}})
    children = [*small_children(), *large_children(template={})]
    with_pods = [child for child in children if child["kind"] in ("Deployment", "PyTorchJob")]
    assert len(with_pods) == 3
    for template in map(pod_template_of, with_pods):
        metadata = template["metadata"] | {"name": "pod", "namespace": namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        create(cluster, pod, dryRun="All")
        root = pod | {"spec": pod["spec"] | {"securityContext": {"runAsUser": 0}}}
        with pytest.raises(ApiError, match="violates PodSecurity"):
            create(cluster, root, dryRun="All")


def test_roles_are_accepted_in_both_modes(cluster: ApiCluster, namespace: str) -> None:
    for manifest in [*build_cluster_wide(namespace), *build_namespaced(namespace, [namespace])]:
        assert not differs(manifest, create(cluster, manifest, dryRun="All"))
