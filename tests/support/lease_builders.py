"""The Lease of the operator's replicas, and what they are promised of it."""

from typing import Any

from prism_operator.cluster.leadership import LeaseName
from prism_operator.cluster.lease import LeaseTimes

NAME = LeaseName("prism-system", "prism-operator")
TIMES = LeaseTimes()


def a_lease(holder: str = "a", term: int = 3, version: str = "7", **spec: Any) -> dict[str, Any]:
    """A Lease as the API server shows it."""
    metadata = {"name": NAME.name, "namespace": NAME.namespace, "resourceVersion": version}
    spec = {"holderIdentity": holder, "leaseTransitions": term, "leaseDurationSeconds": 15} | spec
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"} | {
        "metadata": metadata,
        "spec": spec,
    }
