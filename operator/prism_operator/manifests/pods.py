"""What all our pods have in common: one container of ours under the `restricted` Pod Security
profile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prism_api.resources import Images
from prism_operator.manifests.context import Manifest
from prism_operator.manifests.layout import GPU_RESOURCE, SCRATCH_FOLDER, TMP_FOLDER, USER_ID
from prism_operator.manifests.volumes import Volume

_PLACES = {
    "HOME": SCRATCH_FOLDER,
    "TMPDIR": TMP_FOLDER,
    # Whoever asks for the name of a user that /etc/passwd does not have (torch's compiler) fails.
    "USER": "prism",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH_FOLDER}/inductor",
}


@dataclass(frozen=True)
class PodParts:
    """What differs between the pods of trainers and servers."""

    container: str
    """Name of the container."""
    image: str | None
    command: Sequence[str]
    environment: Sequence[Manifest]
    ports: Mapping[str, int]
    gpus: int
    volumes: Sequence[Volume]
    grace_seconds: int
    """From SIGTERM to SIGKILL."""
    container_fields: Mapping[str, Manifest]
    """Probes."""


def variable(name: str, value: str) -> Manifest:
    """An environment variable with its value."""
    return {"name": name, "value": value}


def variable_from(name: str, source: Manifest) -> Manifest:
    """An environment variable that the kubelet finds the value of."""
    return {"name": name, "valueFrom": source}


def pod_template(parts: PodParts, images: Images, labels: Mapping[str, str]) -> Manifest:
    """A PodTemplateSpec; nothing in it but `parts`, images and labels differs between runs."""
    spec: Manifest = {
        "automountServiceAccountToken": False,
        # A Service called vllm would set VLLM_PORT in every pod beside it, which kills servers.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # Of a claim with a million files no owner is changed twice.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": parts.grace_seconds,
        "containers": [_container(parts, images)],
        "volumes": [volume.volume for volume in parts.volumes],
    }
    if images.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in images.pull_secrets]
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def _container(parts: PodParts, images: Images) -> Manifest:
    assert parts.image is not None, "images are resolved before children are built"
    container: Manifest = {
        "name": parts.container,
        "image": parts.image,
        "imagePullPolicy": images.pull_policy,
        "command": list(parts.command),
        "env": [*(variable(*place) for place in _PLACES.items()), *parts.environment],
        "ports": [{"name": name, "containerPort": port} for name, port in parts.ports.items()],
        "volumeMounts": [volume.mount for volume in parts.volumes],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        **parts.container_fields,
    }
    if parts.gpus:
        container["resources"] = {"limits": {GPU_RESOURCE: str(parts.gpus)}}
    return container
