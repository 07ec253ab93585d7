"""The PyTorchJob of an attempt: its trainer pods.

Workers only: with a Master, workers get an init container that the `restricted` profile refuses.
No limits of the Training Operator's own (backoffLimit, deadlines, TTL): restarts, deadlines and
cleaning up are ours.
"""

from collections.abc import Mapping
from typing import Any

from prism_api.names import (
    NODE_RANK_VARIABLE,
    NODES_VARIABLE,
    RENDEZVOUS_VARIABLE,
)
from prism_api.reporting import (
    TERMINATION_FILE,
    TERMINATION_FILE_VARIABLE,
    TRAINER_CONTAINER,
    TRAINER_PORT,
    TRAINER_PORT_VARIABLE,
)
from prism_api.resources import Queue, on_servers
from prism_api.rollout import TOKEN_FILE_VARIABLE, URLS_VARIABLE
from prism_operator.manifests.context import (
    ChildContext,
    Manifest,
    attempt_labels,
    metadata,
    role_selector,
)
from prism_operator.manifests.hashing import with_template_hash
from prism_operator.manifests.layout import (
    CONFIG_FOLDER,
    CONFIG_KEY,
    RENDEZVOUS_PORT,
    TOKEN_FOLDER,
    TOKEN_KEY,
    WORK_FOLDER,
)
from prism_operator.manifests.merge import merged
from prism_operator.manifests.pods import PodParts, pod_template, variable, variable_from
from prism_operator.manifests.rollout_service import servers_url
from prism_operator.manifests.storage import storage_environment, storage_volumes
from prism_operator.manifests.volumes import (
    Volume,
    claims,
    rollout_token,
    stage_config,
    uris_of,
    writable,
)
from prism_operator.planning.naming import attempt_name, token_name
from prism_operator.planning.plan import TrainStep

_GRACE_SECONDS = 600
"""A step of a large model and its checkpoint fit in."""
_INDEX_LABEL = "training.kubeflow.org/replica-index"
"""The Training Operator's, on each pod."""
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"


def build_pytorch_job(
    context: ChildContext,
    step: TrainStep,
    attempt: int,
    config_map_name: str,
    template: Mapping[str, Any],
) -> Manifest:
    """The trainer pods of an attempt, with the user's `template` merged in (see merge.py).

    With a queue it is born suspended: Kueue admits it, and owns `runPolicy.suspend` from then on.
    """
    name = attempt_name(context.run, step.kind, attempt)
    labels = attempt_labels(context.run, step.kind, attempt) | _queue_labels(step.queue)
    run_policy: Manifest = {"cleanPodPolicy": "Running"}
    if step.queue is not None:
        run_policy["suspend"] = True
    worker = {
        "replicas": step.workers.replicas,
        "restartPolicy": "Never",
        "template": merged(_pods(context, step, attempt, config_map_name), template),
    }
    return with_template_hash(
        {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": metadata(context.run, name, labels),
            "spec": {
                "nprocPerNode": str(step.workers.processes_per_replica),
                "runPolicy": run_policy,
                "pytorchReplicaSpecs": {"Worker": worker},
            },
        }
    )


def _queue_labels(queue: Queue | None) -> dict[str, str]:
    if queue is None:
        return {}
    priority = {_PRIORITY_LABEL: queue.priority_class} if queue.priority_class else {}
    return {_QUEUE_LABEL: queue.name} | priority


def _pods(context: ChildContext, step: TrainStep, attempt: int, config_map_name: str) -> Manifest:
    launcher = ["python", "-m", "prism_trainer.launch"]
    parts = PodParts(
        container=TRAINER_CONTAINER,
        image=context.images.trainer,
        command=[
            *launcher,
            f"--config={CONFIG_FOLDER}/{CONFIG_KEY}",
            f"--work-folder={WORK_FOLDER}",
        ],
        environment=_environment(context, step, attempt),
        # The Training Operator would add a port of the second name, and others, itself.
        ports={"metrics": TRAINER_PORT, "pytorchjob-port": RENDEZVOUS_PORT},
        gpus=step.workers.gpus_per_replica,
        volumes=_volumes(context, step, config_map_name),
        grace_seconds=_GRACE_SECONDS,
        container_fields={},
    )
    labels = attempt_labels(context.run, step.kind, attempt)
    labels |= role_selector(context.run, step.kind, "trainer")
    return pod_template(parts, context.images, labels)


def _environment(context: ChildContext, step: TrainStep, attempt: int) -> list[Manifest]:
    first = f"{attempt_name(context.run, step.kind, attempt)}-worker-0"
    settings = {
        TERMINATION_FILE_VARIABLE: TERMINATION_FILE,
        TRAINER_PORT_VARIABLE: str(TRAINER_PORT),
        NODES_VARIABLE: str(step.workers.replicas),
        RENDEZVOUS_VARIABLE: f"{first}:{RENDEZVOUS_PORT}",
    }
    if on_servers(step.rollout):
        settings[URLS_VARIABLE] = servers_url(context.run, step.kind)
        settings[TOKEN_FILE_VARIABLE] = f"{TOKEN_FOLDER}/{TOKEN_KEY}"
    index = {"fieldRef": {"fieldPath": f"metadata.labels['{_INDEX_LABEL}']"}}
    return [
        *(variable(*setting) for setting in settings.items()),
        variable_from(NODE_RANK_VARIABLE, index),
        *storage_environment(context.storage),
    ]


def _volumes(context: ChildContext, step: TrainStep, config_map_name: str) -> list[Volume]:
    uris = uris_of(step.config(1, None).model_dump(mode="json"))
    token = [rollout_token(token_name(context.run))] if on_servers(step.rollout) else []
    return [
        *writable(),
        stage_config(config_map_name),
        *token,
        *storage_volumes(context.storage),
        *claims(uris),
    ]
