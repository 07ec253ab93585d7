"""What the operator may do: a table, and the roles that follow from it.

Nothing else: it reads no Secret and makes no pod itself. kopf asks for nothing of its own, because
it scans neither custom resources nor namespaces (`scanning.disabled`); what every account may do
(discovery) is not listed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from prism_api.names import GROUP, MANAGER, PLURAL
from prism_operator.manifests.context import Manifest

_RBAC = "rbac.authorization.k8s.io"
_CHILD_VERBS = ("get", "list", "watch", "create", "patch", "delete")
"""`get` says whose an object is that has a child's name but none of our labels."""


@dataclass(frozen=True)
class Permission:
    """One resource and what is done with it."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str


PERMISSIONS: tuple[Permission, ...] = (
    Permission(GROUP, PLURAL, ("get", "list", "watch"), "what users want"),
    Permission(GROUP, f"{PLURAL}/status", ("patch",), "one status write per reconcile"),
    Permission(
        GROUP,
        f"{PLURAL}/finalizers",
        ("update",),
        "children name the run as an owner whose deletion they block: clusters with "
        "OwnerReferencesPermissionEnforcement ask for it",
    ),
    Permission("kubeflow.org", "pytorchjobs", _CHILD_VERBS, "attempts"),
    Permission("apps", "deployments", _CHILD_VERBS, "rollout servers"),
    Permission("", "services", _CHILD_VERBS, "their names"),
    Permission("networking.k8s.io", "networkpolicies", _CHILD_VERBS, "who reaches them"),
    Permission("", "configmaps", _CHILD_VERBS, "what trainers read"),
    Permission(
        "", "secrets", ("create",), "the token of rollout servers, written once, never read"
    ),
    Permission("", "pods", ("list", "watch"), "how attempts go and end"),
    Permission("", "events", ("list",), "what keeps pods from starting"),
    Permission("events.k8s.io", "events", ("create",), "what to tell users"),
    Permission("kueue.x-k8s.io", "localqueues", ("get",), "whether a run's queue exists"),
)
"""In every namespace with runs."""

OWN_PERMISSIONS: tuple[Permission, ...] = (
    Permission(
        "coordination.k8s.io",
        "leases",
        ("get", "create", "update"),
        "one active replica of several",
    ),
)
"""In the operator's own namespace."""


def build_cluster_wide(namespace: str) -> list[Manifest]:
    """Account, roles and bindings of an operator in `namespace` that serves all namespaces."""
    role = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": MANAGER},
        "rules": rules(PERMISSIONS),
    }
    return [*_own(namespace), role, _binding("ClusterRole", MANAGER, None, namespace)]


def build_namespaced(namespace: str, served: Sequence[str]) -> list[Manifest]:
    """The same of one that serves some namespaces only, without any right beyond them."""
    roles = [
        manifest
        for place in served
        for manifest in (
            _role(MANAGER, place, PERMISSIONS),
            _binding("Role", MANAGER, place, namespace),
        )
    ]
    return [*_own(namespace), *roles]


def rules(permissions: Sequence[Permission]) -> list[Manifest]:
    """PolicyRules, one for each run of permissions with the same group and verbs."""
    grouped = groupby(permissions, key=lambda permission: (permission.group, permission.verbs))
    return [
        {
            "apiGroups": [group],
            "resources": [permission.resource for permission in members],
            "verbs": list(verbs),
        }
        for (group, verbs), members in grouped
    ]


def _own(namespace: str) -> list[Manifest]:
    """The account, and what it may do at home."""
    name = f"{MANAGER}-leases"
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": MANAGER, "namespace": namespace},
    }
    role = _role(name, namespace, OWN_PERMISSIONS)
    return [account, role, _binding("Role", name, namespace, namespace)]


def _role(name: str, namespace: str, permissions: Sequence[Permission]) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": {"name": name, "namespace": namespace},
        "rules": rules(permissions),
    }


def _binding(kind: str, role: str, place: str | None, account_namespace: str) -> Manifest:
    """Gives the account a role, in one place or everywhere."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": {"name": role} | ({"namespace": place} if place else {}),
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": MANAGER, "namespace": account_namespace}],
    }
