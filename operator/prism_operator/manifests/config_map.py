"""The ConfigMap of an attempt: what its trainer reads."""

from prism_api.checkpoint import CheckpointRef
from prism_operator.manifests.context import ChildContext, Manifest, attempt_labels, metadata
from prism_operator.manifests.layout import CONFIG_KEY
from prism_operator.planning.naming import attempt_name
from prism_operator.planning.plan import TrainStep


def build_config_map(
    context: ChildContext, step: TrainStep, attempt: int, init_from: CheckpointRef | None
) -> Manifest:
    """The StageConfig of an attempt that starts from `init_from`; it never changes."""
    name = attempt_name(context.run, step.kind, attempt)
    labels = attempt_labels(context.run, step.kind, attempt)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(context.run, name, labels),
        "immutable": True,
        "data": {CONFIG_KEY: step.config(attempt, init_from).to_json()},
    }
