"""The Service of a stage's rollout servers.

Headless: its name resolves to the addresses of all servers that are ready, and the trainer talks to
each of them, for each has to be given new weights. A Service with an address of its own would hand
every connection to a server of its choice.
"""

from prism_api.names import StageKind
from prism_api.rollout import ROLLOUT_PORT
from prism_api.stage_config import RunRef
from prism_operator.manifests.context import (
    ChildContext,
    Manifest,
    metadata,
    role_selector,
    stage_labels,
)
from prism_operator.planning.naming import rollout_name
from prism_operator.planning.plan import ServeStep


def build_rollout_service(context: ChildContext, serve: ServeStep) -> Manifest:
    """The name of the stage's servers."""
    run = context.run
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(run, rollout_name(run, serve.kind), stage_labels(run, serve.kind)),
        "spec": {
            "clusterIP": "None",
            "selector": role_selector(run, serve.kind, "rollout"),
            "ports": [{"name": "http", "port": ROLLOUT_PORT, "targetPort": ROLLOUT_PORT}],
        },
    }


def servers_url(run: RunRef, kind: StageKind) -> str:
    """One URL for all of a stage's servers, for pods of the same namespace."""
    return f"http://{rollout_name(run, kind)}:{ROLLOUT_PORT}"
