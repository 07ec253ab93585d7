"""The digest of a child's pod template: what follows from a run's live fields, images and
templates."""

import hashlib
import json
from typing import Any

from prism_api.names import GROUP
from prism_operator.manifests.context import ATTEMPT_ANNOTATION, Manifest

HASH_ANNOTATION = f"{GROUP}/template-hash"
"""On PyTorchJobs and Deployments: template_hash of what was applied."""


def template_hash(manifest: Manifest) -> str:
    """16 hexadecimal digits over the pod template of a PyTorchJob or Deployment.

    A change of it waits for the next attempt (has_other_template): neither a user nor a new version
    of the operator restarts what runs.
    """
    template: Any = manifest["spec"].get("template")
    if template is None:
        template = manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_template_hash(manifest: Manifest) -> Manifest:
    """The same with the annotation."""
    metadata = manifest["metadata"]
    annotations = metadata.get("annotations", {}) | {HASH_ANNOTATION: template_hash(manifest)}
    return manifest | {"metadata": metadata | {"annotations": annotations}}


def has_other_template(desired: Manifest, actual: Manifest) -> bool:
    """Whether a child was created with another pod template.

    Then it is no drift: it stays, and for the next attempt it is deleted and created anew, because
    an apply takes away nothing that a creation wrote. One whose annotation somebody took away has
    drifted.
    """
    written = actual["metadata"].get("annotations", {}).get(HASH_ANNOTATION)
    return written is not None and written != template_hash(desired)


def is_for_same_attempt(desired: Manifest, actual: Manifest) -> bool:
    """Whether a child was last written for the attempt for which it is desired now."""
    return _attempt_of(desired) == _attempt_of(actual)


def _attempt_of(manifest: Manifest) -> str | None:
    value: str | None = manifest["metadata"].get("annotations", {}).get(ATTEMPT_ANNOTATION)
    return value
