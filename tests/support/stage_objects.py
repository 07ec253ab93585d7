"""The children of an attempt of a stage, as the operator would create them, but without one."""

import uuid
from typing import Any

from prism_api.names import ATTEMPT_LABEL, ROLE_LABEL, RUN_LABEL, STAGE_LABEL, UID_LABEL
from prism_operator.planning.plan import TrainStep
from run_builders import a_plan

Document = dict[str, Any]
RUN = "run"


def a_step(uid: str = "") -> TrainStep:
    """The first stage of a run of three, under a UID of its own."""
    return a_plan(uid=uid or str(uuid.uuid4())).train_steps[0]


def labels_of(step: TrainStep, attempt: int | None = None) -> dict[str, str]:
    """What all children of a stage have; those of an attempt say which."""
    labels = {UID_LABEL: step.run.uid, RUN_LABEL: step.run.name, STAGE_LABEL: step.kind}
    return labels | ({ATTEMPT_LABEL: str(attempt)} if attempt is not None else {})


def a_config_map(namespace: str, step: TrainStep, attempt: int = 1) -> Document:
    """What the trainer reads."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(namespace, step, attempt),
        "data": {"stage.json": step.config(attempt, None).to_json()},
    }


def a_job(namespace: str, step: TrainStep, attempt: int = 1, replicas: int = 1) -> Document:
    """The trainers."""
    labels = labels_of(step, attempt) | {ROLE_LABEL: "trainer"}
    container = {"name": "pytorch", "image": "trainer:1"}
    worker = {
        "replicas": replicas,
        "restartPolicy": "Never",
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(namespace, step, attempt),
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": {"Worker": worker},
        },
    }


def a_deployment(namespace: str, step: TrainStep, replicas: int = 2) -> Document:
    """The rollout servers."""
    labels = labels_of(step) | {ROLE_LABEL: "rollout"}
    name = f"{step.run.name}-{step.kind}-rollout"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "vllm", "image": "rollout:1"}]},
            },
        },
    }


def _metadata(namespace: str, step: TrainStep, attempt: int) -> Document:
    name = f"{step.run.name}-{step.kind}-a{attempt}"
    return {"name": name, "namespace": namespace, "labels": labels_of(step, attempt)}
