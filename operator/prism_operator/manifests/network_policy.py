"""Who reaches a stage's rollout servers: its trainer, and Prometheus.

Prometheus may open the port, not its paths: all but /health and /metrics need the token.
"""

from prism_api.rollout import ROLLOUT_PORT
from prism_operator.manifests.context import (
    ChildContext,
    Manifest,
    metadata,
    role_selector,
    stage_labels,
)
from prism_operator.planning.naming import rollout_name
from prism_operator.planning.plan import ServeStep

_PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
"""Label that the Prometheus Operator and the community's chart give its pods."""


def build_network_policy(context: ChildContext, serve: ServeStep) -> Manifest:
    """Admits nobody else; where the cluster's network knows no policies the token remains."""
    run, kind = context.run, serve.kind
    trainer = {"podSelector": {"matchLabels": role_selector(run, kind, "trainer")}}
    prometheus = {"namespaceSelector": {}, "podSelector": {"matchLabels": _PROMETHEUS}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(run, rollout_name(run, kind), stage_labels(run, kind)),
        "spec": {
            "podSelector": {"matchLabels": role_selector(run, kind, "rollout")},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [trainer, prometheus],
                    "ports": [{"protocol": "TCP", "port": ROLLOUT_PORT}],
                }
            ],
        },
    }
