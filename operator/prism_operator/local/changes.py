"""Whether what a run's stages have left is still what its document plans."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prism_api.base import parse_json
from prism_api.checkpoint import CheckpointManifest, CheckpointRef
from prism_api.errors import FolderTaken
from prism_api.names import MANIFEST_FILE, STAGE_ORDER, StageKind
from prism_api.stage_config import StageResult
from prism_operator.planning.naming import stage_uri
from prism_operator.planning.plan import Plan, TrainStep
from prism_store.checkpoints import newest_checkpoint
from prism_store.store import open_store


def check_unchanged(
    plan: Plan, store_uri: str, results: Mapping[StageKind, StageResult], document: Path
) -> None:
    """Refuse a plan under which a stage that has left a result or a complete checkpoint would have
    come out otherwise; reads only.

    Raises FolderTaken, naming the stage and where the settings stand that it was trained with.
    """
    steps = {step.kind: step for step in plan.train_steps}
    start: _Start | None = _Start(None)
    for kind in STAGE_ORDER:
        step = steps.get(kind)
        left = _left(stage_uri(store_uri, plan.run, kind), results.get(kind))
        if left is not None and not _is_planned(left, step, start):
            raise FolderTaken(
                f"stage {kind}: its settings, or the stages before it, changed after it had left a "
                f"checkpoint (see {document}); undo the change, or give another folder with --out"
            )
        if step is not None:
            start = None if left is None else _Start(left.checkpoint)


@dataclass(frozen=True)
class _Start:
    """What a stage starts from; none: the run's model."""

    checkpoint: CheckpointRef | None


@dataclass(frozen=True)
class _Left:
    """Of a stage's result or, as long as it has none, of its newest complete checkpoint."""

    config_hash: str
    checkpoint: CheckpointRef


def _left(uri: str, result: StageResult | None) -> _Left | None:
    if result is not None:
        return _Left(result.config_hash, result.checkpoint)
    ref = newest_checkpoint(open_store(uri))
    if ref is None:
        return None
    text = open_store(ref.uri).get(MANIFEST_FILE)
    return _Left(parse_json(CheckpointManifest, text, ref.uri).config_hash, ref)


def _is_planned(left: _Left, step: TrainStep | None, start: _Start | None) -> bool:
    """`start` is none where the stage before is still to be done: then nothing follows it yet."""
    if step is None or start is None:
        return False
    return step.config(1, start.checkpoint).config_hash == left.config_hash
