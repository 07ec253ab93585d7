"""The kinds that the operator works with, and where the API server serves them."""

from dataclasses import dataclass

from prism_api.names import GROUP, PLURAL, VERSION


@dataclass(frozen=True)
class Resource:
    """A kind, by group, version and plural."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Of a collection or an object; no namespace: in all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        parts = [root + scope, self.plural, name, subresource]
        return "/".join(part for part in parts if part)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


def plural_of(path: str) -> str:
    """The kind that a request is about, as metrics name it; of a group's list of kinds none."""
    parts = path.split("/")[3 if path.startswith("/api/") else 4 :] or ["discovery"]
    return parts[2] if parts[0] == "namespaces" and len(parts) > 2 else parts[0]


RUNS = Resource(GROUP, VERSION, PLURAL)
JOBS = Resource("kubeflow.org", "v1", "pytorchjobs")
PODS = Resource("", "v1", "pods")
CONFIG_MAPS = Resource("", "v1", "configmaps")
SECRETS = Resource("", "v1", "secrets")
SERVICES = Resource("", "v1", "services")
DEPLOYMENTS = Resource("apps", "v1", "deployments")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies")
EVENTS = Resource("events.k8s.io", "v1", "events")
CORE_EVENTS = Resource("", "v1", "events")
LOCAL_QUEUES = Resource("kueue.x-k8s.io", "v1beta1", "localqueues")

BY_KIND = {
    "PyTorchJob": JOBS,
    "ConfigMap": CONFIG_MAPS,
    "Secret": SECRETS,
    "Service": SERVICES,
    "Deployment": DEPLOYMENTS,
    "NetworkPolicy": NETWORK_POLICIES,
}
"""Of the children that the operator makes."""
