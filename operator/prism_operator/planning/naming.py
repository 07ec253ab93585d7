"""Names that follow from a run: the same inputs always give the same name."""

import hashlib

from prism_api.names import StageKind
from prism_api.stage_config import RunRef


def stage_uri(store_uri: str, run: RunRef, kind: StageKind) -> str:
    """Folder of a stage in the store; the UID keeps runs of the same name apart."""
    return f"{store_uri.rstrip('/')}/{run.namespace}/{run.name}/{run.uid}/{kind}"


def attempt_name(run: RunRef, kind: StageKind, attempt: int) -> str:
    """Name of an attempt's ConfigMap and PyTorchJob: at most 52 characters, for its pods and their
    Services append `-worker-I` and have 63."""
    return _child_name(run, f"-{kind}-a{attempt}", 52)


def rollout_name(run: RunRef, kind: StageKind) -> str:
    """Name of a stage's rollout Deployment, Service and NetworkPolicy."""
    return _child_name(run, f"-{kind}-rollout", 63)


def token_name(run: RunRef) -> str:
    """Name of the Secret with the run's rollout token; another run of the same name has another."""
    return _child_name(run, f"-{run.uid[:8]}-rollout", 63)


def _child_name(run: RunRef, suffix: str, limit: int) -> str:
    """The run's name and the suffix: an RFC 1035 label, as names of Services must be.

    Where it would be too long, or would begin with a digit, a digest of the run's name stands for
    what is changed; no two runs, and no two suffixes, share a name.
    """
    if run.name[0].isalpha() and len(run.name) + len(suffix) <= limit:
        return run.name + suffix
    digest = hashlib.sha256(run.name.encode()).hexdigest()[:10]
    head = f"run-{run.name}"[: limit - len(suffix) - len(digest) - 1].rstrip("-")
    return f"{head}-{digest}{suffix}"
