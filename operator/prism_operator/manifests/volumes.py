"""Volumes of our pods, each with its place in the container."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prism_api.uris import CLAIMS_FOLDER, claim, scheme
from prism_operator.manifests.context import Manifest
from prism_operator.manifests.layout import (
    CA_FOLDER,
    CA_KEY,
    CA_VOLUME,
    CLAIM_VOLUME,
    CONFIG_FOLDER,
    CONFIG_KEY,
    CONFIG_VOLUME,
    SCRATCH_FOLDER,
    SCRATCH_VOLUME,
    SHM_VOLUME,
    TMP_FOLDER,
    TMP_VOLUME,
    TOKEN_FOLDER,
    TOKEN_KEY,
    TOKEN_VOLUME,
)

_OWNER_AND_GROUP_READ = 0o440


@dataclass(frozen=True)
class Volume:
    """A volume and where its one container has it."""

    name: str
    source: Manifest
    folder: str
    read_only: bool = False

    @property
    def volume(self) -> Manifest:
        """For the pod's `volumes`."""
        return {"name": self.name, **self.source}

    @property
    def mount(self) -> Manifest:
        """For the container's `volumeMounts`."""
        read_only = {"readOnly": True} if self.read_only else {}
        return {"name": self.name, "mountPath": self.folder, **read_only}


def writable() -> list[Volume]:
    """What a program on a read-only root file system needs: a home, /tmp, and shared memory as
    large as the pod's memory limit (Kubernetes' own /dev/shm has 64 MB)."""
    return [
        Volume(SCRATCH_VOLUME, {"emptyDir": {}}, SCRATCH_FOLDER),
        Volume(TMP_VOLUME, {"emptyDir": {}}, TMP_FOLDER),
        Volume(SHM_VOLUME, {"emptyDir": {"medium": "Memory"}}, "/dev/shm"),
    ]


def stage_config(config_map_name: str) -> Volume:
    """The stage's StageConfig."""
    source = {"name": config_map_name, "items": [{"key": CONFIG_KEY, "path": CONFIG_KEY}]}
    return Volume(CONFIG_VOLUME, {"configMap": source}, CONFIG_FOLDER, read_only=True)


def rollout_token(secret_name: str) -> Volume:
    """The bearer token of the run's rollout servers."""
    source = {
        "secretName": secret_name,
        "items": [{"key": TOKEN_KEY, "path": TOKEN_KEY}],
        "defaultMode": _OWNER_AND_GROUP_READ,
    }
    return Volume(TOKEN_VOLUME, {"secret": source}, TOKEN_FOLDER, read_only=True)


def authorities(config_map_name: str) -> Volume:
    """The certificate authorities of the store's endpoint; a ConfigMap without the key is said by
    the kubelet, by name."""
    source = {"name": config_map_name, "items": [{"key": CA_KEY, "path": CA_KEY}]}
    return Volume(CA_VOLUME, {"configMap": source}, CA_FOLDER, read_only=True)


def claims(uris: Iterable[str]) -> list[Volume]:
    """A volume for each PersistentVolumeClaim that a `pvc://` URI names."""
    names = sorted({claim(uri) for uri in uris if scheme(uri) == "pvc"})
    return [
        Volume(
            f"{CLAIM_VOLUME}-{number}",
            {"persistentVolumeClaim": {"claimName": name}},
            f"{CLAIMS_FOLDER}/{name}",
            read_only=True,
        )
        for number, name in enumerate(names)
    ]


def uris_of(document: Any) -> Iterator[str]:
    """Every `uri` in a document, however deep."""
    if isinstance(document, dict):
        uri = document.get("uri")
        yield from [uri] if isinstance(uri, str) else []
        document = list(document.values())
    if isinstance(document, Sequence) and not isinstance(document, str):
        for member in document:
            yield from uris_of(member)
