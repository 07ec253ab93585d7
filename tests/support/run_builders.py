"""PrismRuns as users write them, and changes to them by field path."""

import copy
import enum
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from prism_api.base import parse
from prism_api.run import PrismRun
from prism_api.uris import file_uri
from prism_operator.planning.plan import Plan, plan

Document = dict[str, Any]
Changes = Mapping[str, Any]
"""Field path, as in error messages, to new value; REMOVED takes the field out."""


class _Removed(enum.Enum):
    """Its name is the same in every process, and so are the names of tests with it."""

    REMOVED = enum.auto()


REMOVED: object = _Removed.REMOVED
UID = "3f0c2a9e-1b7d-4e58-8a64-2f9d0c5b7e11"

_DOCUMENT: Document = {
    "apiVersion": "prism.dev/v1alpha1",
    "kind": "PrismRun",
    "metadata": {"name": "run"},
    "spec": {
        "model": {"uri": "file://model"},
        "rollout": {"backend": "inprocess"},
        "stages": {
            "sft": {"data": [{"uri": "file://sft.parquet"}]},
            "align": {"data": {"uri": "file://align.parquet"}},
            "rlvr": {"data": {"uri": "file://rlvr.parquet"}},
        },
        "evaluation": {"data": {"uri": "file://heldout.parquet"}},
    },
}


def a_document(changes: Changes | None = None) -> Document:
    """A valid document with three stages, an evaluation and no more than they need, then
    changed."""
    return put(_DOCUMENT, changes or {})


def put(document: Document, changes: Changes) -> Document:
    """A copy of a document with some fields changed; what lies between is made."""
    copied = copy.deepcopy(document)
    for path, value in changes.items():
        _put(copied, path, value)
    return copied


def a_prism_run(changes: Changes | None = None) -> PrismRun:
    """The run that such a document is."""
    return parse(PrismRun, a_document(changes))


def a_plan(changes: Changes | None = None, uid: str = UID) -> Plan:
    """The plan of such a run."""
    return plan(a_prism_run(changes), uid, "file:///store")


def write_yaml(path: Path, document: Document) -> Path:
    """Leave a document in a file; returns the file."""
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def a_small_document(digits: Path, changes: Changes | None = None) -> Document:
    """SFT for four steps with a checkpoint after each two: seconds of real training."""
    sft = {
        "data": [{"uri": file_uri(digits / "sft-curated.parquet")}],
        "steps": 4,
        "batchSize": 4,
        "learningRate": 1e-3,
        "trainVisionTower": True,
        "maxPromptTokens": 64,
        "maxResponseTokens": 96,
        "checkpointEverySteps": 2,
    }
    small = {
        "metadata.name": "small",
        "spec.model.uri": file_uri(digits / "model"),
        "spec.workers": {"engine": "replicated", "precision": "fp32"},
        "spec.stages": {"sft": sft},
        "spec.evaluation": REMOVED,
    }
    return a_document(small | dict(changes or {}))


def _put(document: Document, path: str, value: Any) -> None:
    *parents, last = [int(p) if p.isdigit() else p for p in re.findall(r"[^.\[\]]+", path)]
    owner: Any = document
    for part in parents:
        owner = owner[part] if isinstance(part, int) else owner.setdefault(part, {})
    if value is REMOVED:
        del owner[last]
    else:
        owner[last] = value
