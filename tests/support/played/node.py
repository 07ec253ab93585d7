"""The node that all played pods are bound to."""

import asyncio
from datetime import UTC, datetime

from played.api import LEASES, NODES, Api, ApiError, Json
from played.job_rules import timestamp
from played.pod_status import NODE

_BEAT_S = 10.0
_LEASES = "kube-node-lease"


async def raise_node(api: Api) -> None:
    """The node that all played pods are bound to: without one, pod garbage collection removes
    them."""
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "lastHeartbeatTime": timestamp(datetime.now(UTC)),
        "lastTransitionTime": timestamp(datetime.now(UTC)),
    }
    room = {"cpu": "1M", "memory": "1Pi", "pods": "1M", "nvidia.com/gpu": "1M"}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE},
        "status": {"conditions": [ready], "capacity": room, "allocatable": room},
    }
    try:
        await api.post(NODES.path(None), node)
    except ApiError as error:
        if error.status != 409:
            raise
        body = {"status": {"conditions": [ready]}}
        await api.patch(NODES.path(None, NODE, "status"), body)


async def beat(api: Api) -> None:
    """Renew the node's lease: pods of a node that is not heard of are evicted."""
    lease: Json = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NODE},
        "spec": {"holderIdentity": NODE, "leaseDurationSeconds": 40},
    }
    while True:
        lease["spec"]["renewTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        path = f"{LEASES.path(_LEASES, NODE)}?fieldManager=played&force=true"
        await api.patch(path, lease, "application/apply-patch+yaml")
        await asyncio.sleep(_BEAT_S)
