"""The Deployment of a stage's rollout servers; it lives through the stage's attempts."""

from collections.abc import Mapping
from typing import Any

from prism_api.rollout import (
    HEALTH_PATH,
    ROLLOUT_CONTAINER,
    ROLLOUT_PORT,
    TOKEN_FILE_VARIABLE,
)
from prism_api.uris import mounted_path, scheme
from prism_operator.manifests.context import (
    ATTEMPT_ANNOTATION,
    ChildContext,
    Manifest,
    metadata,
    role_selector,
    stage_labels,
)
from prism_operator.manifests.hashing import with_template_hash
from prism_operator.manifests.layout import SERVER_FOLDER, TOKEN_FOLDER, TOKEN_KEY
from prism_operator.manifests.merge import merged
from prism_operator.manifests.pods import PodParts, pod_template, variable
from prism_operator.manifests.storage import storage_environment, storage_volumes
from prism_operator.manifests.volumes import claims, rollout_token, writable
from prism_operator.planning.naming import rollout_name, token_name
from prism_operator.planning.plan import ServeStep, TrainStep
from prism_operator.planning.serving import context_tokens

_START_SECONDS = 1800
"""A large model is fetched and loaded in."""
_GRACE_SECONDS = 30


def build_rollout_deployment(
    context: ChildContext,
    serve: ServeStep,
    step: TrainStep,
    attempt: int,
    template: Mapping[str, Any],
) -> Manifest:
    """The servers of the stage that `step` trains, with the user's `template` merged in.

    Only the annotation knows the attempt: another one replaces no pod.
    """
    run = context.run
    selector = role_selector(run, serve.kind, "rollout")
    annotations = {ATTEMPT_ANNOTATION: str(attempt)}
    labels = stage_labels(run, serve.kind)
    return with_template_hash(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata(run, rollout_name(run, serve.kind), labels, annotations),
            "spec": {
                "replicas": serve.rollout.replicas,
                # Another server beside the old one would wait for GPUs that the old one holds.
                "strategy": {"type": "Recreate"},
                "revisionHistoryLimit": 0,
                "progressDeadlineSeconds": _START_SECONDS + 60,
                "selector": {"matchLabels": selector},
                "template": merged(_pods(context, serve, step), template),
            },
        }
    )


def _pods(context: ChildContext, serve: ServeStep, step: TrainStep) -> Manifest:
    token = variable(TOKEN_FILE_VARIABLE, f"{TOKEN_FOLDER}/{TOKEN_KEY}")
    parts = PodParts(
        container=ROLLOUT_CONTAINER,
        image=context.images.rollout,
        command=_command(serve, step),
        environment=[token, *storage_environment(context.storage)],
        ports={"http": ROLLOUT_PORT},
        gpus=serve.rollout.gpus_per_replica,
        volumes=[
            *writable(),
            rollout_token(token_name(context.run)),
            *storage_volumes(context.storage),
            *claims([step.model.uri]),
        ],
        grace_seconds=_GRACE_SECONDS,
        container_fields=_probes(),
    )
    labels = stage_labels(context.run, serve.kind)
    labels |= role_selector(context.run, serve.kind, "rollout")
    return pod_template(parts, context.images, labels)


def _command(serve: ServeStep, step: TrainStep) -> list[str]:
    return [
        *("python", "-m", "prism_rollout"),
        f"--model={_model(step.model.uri)}",
        f"--gpus={serve.rollout.gpus_per_replica}",
        f"--max-model-len={context_tokens(step.stage, step.evaluation)}",
        "--host=0.0.0.0",
        f"--port={ROLLOUT_PORT}",
        f"--folder={SERVER_FOLDER}",
    ]


def _model(uri: str) -> str:
    """The run's own model, as the server is told of it; the trainer brings the weights before it
    samples."""
    if scheme(uri) == "hf":
        return uri.removeprefix("hf://")
    return mounted_path(uri) if scheme(uri) == "pvc" else uri


def _probes() -> dict[str, Manifest]:
    """A server that starts has as long as a large model takes; one whose process ends is started
    again at once, whatever the probes say. One that is up and silent for five minutes is replaced:
    an update of its weights answers in between."""
    health = {"httpGet": {"path": HEALTH_PATH, "port": ROLLOUT_PORT}, "timeoutSeconds": 5}
    start = {"periodSeconds": 5, "failureThreshold": _START_SECONDS // 5}
    return {
        "startupProbe": health | start,
        "readinessProbe": health | {"periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": health | {"periodSeconds": 10, "failureThreshold": 30},
    }
