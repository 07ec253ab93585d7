"""The operator's account in a test cluster: exactly the rights that the chart gives it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from api_cluster import ApiCluster, wait_for
from prism_api.names import MANAGER
from prism_operator.manifests.rbac import build_namespaced

_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


def operator_kubeconfig(cluster: ApiCluster, home: str, served: Sequence[str] = ()) -> Path:
    """Of an operator that lives in one namespace and serves it, or others; the API server knows of
    its rights by then."""
    places = served or [home]
    for manifest in build_namespaced(home, places):
        cluster.admin.apply(manifest)
    rights = [(place, "kubeflow.org", "pytorchjobs") for place in places]
    for where in (*rights, (home, "coordination.k8s.io", "leases")):
        wait_for("the operator's rights", partial(_may_create, cluster, home, *where))
    return cluster.kubeconfig_for(home, MANAGER)


def _may_create(cluster: ApiCluster, home: str, place: str, group: str, resource: str) -> bool:
    asked = {"namespace": place, "verb": "create", "group": group, "resource": resource}
    review: dict[str, Any] = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{home}:{MANAGER}",
            "resourceAttributes": asked,
        },
    }
    allowed: bool = cluster.admin.request("POST", _REVIEWS, review)["status"]["allowed"]
    return allowed
