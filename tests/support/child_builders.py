"""Children of two runs: one that has next to nothing, and one that uses everything."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prism_api.checkpoint import CheckpointRef
from prism_api.names import StageKind
from prism_api.resources import Images, Storage
from prism_operator.manifests.config_map import build_config_map
from prism_operator.manifests.context import ChildContext, Manifest
from prism_operator.manifests.network_policy import build_network_policy
from prism_operator.manifests.pytorch_job import build_pytorch_job
from prism_operator.manifests.rbac import build_cluster_wide, build_namespaced
from prism_operator.manifests.rollout_deployment import build_rollout_deployment
from prism_operator.manifests.rollout_service import build_rollout_service
from prism_operator.manifests.token_secret import build_token_secret
from prism_operator.planning.naming import attempt_name
from prism_operator.planning.plan import Plan, ServeStep, TrainStep, plan
from run_builders import REMOVED, UID, Changes, a_prism_run

Template = Mapping[str, Any]
TOKEN = "a-token-of-the-tests"
PARENT = CheckpointRef(uri="s3://prism/team-a/run/align/a2/step-500", digest="0123456789abcdef" * 4)

SMALL = {
    "metadata.name": "small",
    "spec.model.uri": "hf://Qwen/Qwen3-VL-2B-Instruct",
    "spec.stages.sft.data[0].uri": "s3://data/sft.parquet",
    "spec.stages.align": REMOVED,
    "spec.stages.rlvr": REMOVED,
    "spec.rollout": REMOVED,
    "spec.evaluation": REMOVED,
}
"""SFT on a CPU."""

LARGE = {
    "metadata": {"name": "large", "namespace": "team-a"},
    "spec.model.uri": "pvc://models/qwen3-vl-4b",
    "spec.workers": {"replicas": 2, "gpusPerReplica": 8},
    "spec.rollout": {"backend": "vllm", "replicas": 2, "gpusPerReplica": 4},
    "spec.stages.sft": REMOVED,
    "spec.stages.align": REMOVED,
    "spec.stages.rlvr": {"data": {"uri": "pvc://data/rlvr.parquet"}, "batchSize": 64},
    "spec.evaluation.data.uri": "s3://data/heldout.parquet",
    "spec.queue": {"name": "team-a", "priorityClass": "prod"},
}
"""RLVR on servers, admitted by a queue."""

TEMPLATE: Template = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"cost-center": "7"}},
    "spec": {
        "serviceAccountName": "trainer",
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "2048Gi"}}],
        "containers": [
            {
                "name": "pytorch",
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                "resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}},
            }
        ],
    },
}


def a_step(changes: Changes, kind: StageKind) -> tuple[Plan, TrainStep]:
    """The plan of a run and the step of one of its stages."""
    planned = plan(a_prism_run(changes), UID, "s3://prism/team-a")
    return planned, next(step for step in planned.train_steps if step.kind == kind)


def the_serve_step(planned: Plan) -> ServeStep:
    """The servers of a run with one stage that has some."""
    return next(step for step in planned.steps if isinstance(step, ServeStep))


def small_context(planned: Plan) -> ChildContext:
    """A store that needs no word."""
    images = Images(trainer="registry/trainer:1", rollout="registry/rollout:1")
    return ChildContext(planned.run, images, Storage(uri="s3://prism/team-a"))


def large_context(planned: Plan) -> ChildContext:
    """A store and a registry of the company's own."""
    storage = Storage(
        uri="s3://prism/team-a",
        endpoint="https://s3.example.internal",
        region="eu-1",
        addressing_style="path",
        ca_bundle="company-ca",
        credentials_secret="s3-credentials",
    )
    images = Images(
        trainer="registry/trainer@sha256:1",
        rollout="registry/rollout@sha256:2",
        pull_policy="Always",
        pull_secrets=("registry",),
    )
    return ChildContext(planned.run, images, storage)


def small_children() -> list[Manifest]:
    """All children of the first attempt of the small run's SFT."""
    planned, step = a_step(SMALL, "sft")
    context = small_context(planned)
    config_map = build_config_map(context, step, 1, None)
    return [config_map, build_pytorch_job(context, step, 1, config_map["metadata"]["name"], {})]


def large_children(
    changes: Changes | None = None,
    template: Template = TEMPLATE,
    attempt: int = 3,
    namespace: str = "team-a",
) -> list[Manifest]:
    """All children of an attempt of the large run's RLVR."""
    planned, step = a_step(
        LARGE | {"metadata": {"name": "large", "namespace": namespace}} | dict(changes or {}),
        "rlvr",
    )
    context, serve = large_context(planned), the_serve_step(planned)
    name = attempt_name(planned.run, "rlvr", attempt)
    servers = replace_container(template, "vllm")
    return [
        build_config_map(context, step, attempt, PARENT),
        build_token_secret(context, TOKEN),
        build_rollout_deployment(context, serve, step, attempt, servers),
        build_rollout_service(context, serve),
        build_network_policy(context, serve),
        build_pytorch_job(context, step, attempt, name, template),
    ]


def replace_container(template: Template, name: str) -> Template:
    """The same for the one container of other pods."""
    spec = dict(template.get("spec", {}))
    spec["containers"] = [member | {"name": name} for member in spec.get("containers", [])]
    return {**template, "spec": spec}


def named_children() -> dict[str, list[Manifest]]:
    """What is kept as YAML, by file name."""
    return {
        "sft-on-a-cpu": small_children(),
        "rlvr-on-servers": large_children(),
        "rbac-cluster-wide": build_cluster_wide("prism"),
        "rbac-namespaced": build_namespaced("prism", ["team-a", "team-b"]),
    }


def with_images(context: ChildContext, **images: str) -> ChildContext:
    """The same run with other images."""
    return replace(context, images=context.images.model_copy(update=images))


def pod_template_of(manifest: Manifest) -> Manifest:
    """Of a Deployment or a PyTorchJob."""
    spec = manifest["spec"]
    template: Manifest = spec.get("template") or spec["pytorchReplicaSpecs"]["Worker"]["template"]
    return template
