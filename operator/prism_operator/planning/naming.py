"""Names that follow from a run: the same inputs always give the same name."""

from prism_api.names import StageKind
from prism_api.stage_config import RunRef


def stage_uri(store_uri: str, run: RunRef, kind: StageKind) -> str:
    """Folder of a stage in the store; the UID keeps runs of the same name apart."""
    return f"{store_uri.rstrip('/')}/{run.namespace}/{run.name}/{run.uid}/{kind}"


def attempt_name(run: RunRef, kind: StageKind, attempt: int) -> str:
    """Name of an attempt's child; at most 63 characters, as run names are at most 40."""
    return f"{run.name}-{kind}-a{attempt}"
