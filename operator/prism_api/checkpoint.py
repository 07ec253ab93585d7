"""CheckpointManifest: the list that makes a checkpoint complete."""

from typing import Annotated, Literal

from pydantic import Field

from prism_api.base import Contract
from prism_api.names import StageKind
from prism_api.patterns import OBJECT_PATH, SHA256
from prism_api.resources import Positive

Sha256 = Annotated[str, Field(pattern=SHA256)]


class CheckpointRef(Contract):
    """A checkpoint and what its manifest must hash to."""

    uri: str
    """Folder of the checkpoint in the store."""
    digest: Sha256
    """SHA-256 of manifest.json."""


class StoredObject(Contract):
    """One file of a checkpoint."""

    path: Annotated[str, Field(pattern=OBJECT_PATH)]
    """Relative to the checkpoint's folder, which it cannot leave."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Length of the content."""
    sha256: Sha256
    """Hash of the content."""


class CheckpointManifest(Contract):
    """Written last: a checkpoint without a valid manifest does not exist (design, section 4)."""

    schema_version: Literal[1] = 1
    """Layout of this document."""
    run_uid: str
    """Run that wrote it."""
    stage: StageKind
    """Stage that wrote it."""
    attempt: Positive
    """Attempt that wrote it."""
    step: Annotated[int, Field(ge=0)]
    """Iterations done, those of a warm-up included."""
    weight_version: Annotated[int, Field(ge=0)]
    """Optimizer steps that the policy has taken in this stage."""
    config_hash: Sha256
    """Of its StageConfig: what it was made of; a resume under another one is refused."""
    parent: CheckpointRef | None
    """What the stage started from; none: the run's model."""
    objects: tuple[StoredObject, ...]
    """Everything that belongs to the checkpoint, but for this manifest."""
