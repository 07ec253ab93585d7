"""Children of a run as the API server shows them, written short."""

from typing import Any

RUN = "0f8fad5b-d9cb-469f-a165-70867728950e"
JOB = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


def a_pod(version: int, **status: Any) -> dict[str, Any]:
    """Rank 0 of a stage."""
    labels = {
        "prism.dev/run-uid": RUN,
        "prism.dev/stage": "sft",
        "prism.dev/attempt": "1",
        "training.kubeflow.org/replica-index": "0",
    }
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": "run-sft-a1"}
    return {
        "metadata": {
            "name": "run-sft-a1-worker-0",
            "namespace": "team-a",
            "uid": "pod-1",
            "resourceVersion": str(version),
            "labels": labels,
            "ownerReferences": [{**owner, "uid": JOB, "controller": True}],
        },
        "status": {"phase": "Pending", **status},
    }


def a_job(version: int, generation: int, **status: Any) -> dict[str, Any]:
    """The PyTorchJob of that pod."""
    job = a_pod(version)
    run = {"apiVersion": "prism.dev/v1alpha1", "kind": "PrismRun", "name": "run", "uid": RUN}
    names = {"name": "run-sft-a1", "uid": JOB, "generation": generation}
    job["metadata"] |= {**names, "ownerReferences": [{**run, "controller": True}]}
    return {**job, "spec": {"runPolicy": {}}, "status": status}
