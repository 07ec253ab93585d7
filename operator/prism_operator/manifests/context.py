"""What all children of a run have in common: whose they are, and what marks them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prism_api.names import (
    API_VERSION,
    ATTEMPT_LABEL,
    GROUP,
    KIND,
    MANAGER,
    ROLE_LABEL,
    RUN_LABEL,
    STAGE_LABEL,
    UID_LABEL,
    Role,
    StageKind,
)
from prism_api.resources import Images, Storage
from prism_api.stage_config import RunRef

Manifest = dict[str, Any]
"""A Kubernetes object, or part of one, as JSON."""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
ATTEMPT_ANNOTATION = f"{GROUP}/attempt"
"""On a rollout Deployment: the attempt that it was last written for. Not on its pods, for they live
through attempts."""


@dataclass(frozen=True)
class ChildContext:
    """A run's settings that its children need beside their step of the plan."""

    run: RunRef
    images: Images
    """With every image that the run needs set."""
    storage: Storage


def run_labels(run: RunRef) -> dict[str, str]:
    """On everything that belongs to a run."""
    return {MANAGED_BY_LABEL: MANAGER, RUN_LABEL: run.name, UID_LABEL: run.uid}


def stage_labels(run: RunRef, kind: StageKind) -> dict[str, str]:
    """On everything that belongs to a stage."""
    return run_labels(run) | {STAGE_LABEL: kind}


def attempt_labels(run: RunRef, kind: StageKind, attempt: int) -> dict[str, str]:
    """On everything that belongs to an attempt."""
    return stage_labels(run, kind) | {ATTEMPT_LABEL: str(attempt)}


def role_selector(run: RunRef, kind: StageKind, role: Role) -> dict[str, str]:
    """Labels by which a stage's pods of one role are found, whatever the attempt."""
    return {UID_LABEL: run.uid, STAGE_LABEL: kind, ROLE_LABEL: role}


def owner_reference(run: RunRef) -> Manifest:
    """Names the PrismRun as controller: who deletes it deletes its children."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": run.name,
        "uid": run.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(
    run: RunRef,
    name: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """`metadata` of a child."""
    found: Manifest = {"name": name, "namespace": run.namespace, "labels": dict(labels)}
    if annotations:
        found["annotations"] = dict(annotations)
    return found | {"ownerReferences": [owner_reference(run)]}
