"""CheckpointManifest: the list that makes a checkpoint complete."""

from typing import Annotated

from pydantic import Field

from prism_api.base import Contract
from prism_api.names import StageKind
from prism_api.resources import Positive

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckpointRef(Contract):
    """A checkpoint and what its manifest must hash to."""

    uri: str
    """Folder of the checkpoint in the store."""
    digest: Sha256
    """SHA-256 of manifest.json."""


class StoredObject(Contract):
    """One file of a checkpoint."""

    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")]
    """Relative to the checkpoint's folder."""
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class CheckpointManifest(Contract):
    """Written last: a checkpoint without a valid manifest does not exist (design, section 4)."""

    schema_version: Positive = 1
    run_uid: str
    stage: StageKind
    attempt: Positive
    step: Annotated[int, Field(ge=0)]
    weight_version: Annotated[int, Field(ge=0)]
    """Optimizer steps that the policy has taken in this stage."""
    config_hash: Sha256
    """Of the StageConfig without its attempt; a resume under another config is refused."""
    parent: CheckpointRef | None
    """What the stage started from; none: the run's model."""
    objects: tuple[StoredObject, ...]
