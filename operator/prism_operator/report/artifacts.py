"""What finished stages left in their folders, as values; the only reader of those files here.

A folder holds result.json (which makes the stage done), metrics.jsonl and samples.json. The last
two only feed the report: where one is missing, curves or responses are, but the report is written.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from prism_api.base import parse_json
from prism_api.errors import StoreError
from prism_api.names import RESULT_FILE, StageKind
from prism_api.stage_config import StageResult

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.json"

PHASES = ("warmup", "train")
"""In the order in which they happen."""

_Text = Annotated[str, Field(coerce_numbers_to_str=True)]


@dataclass(frozen=True)
class MetricPoint:
    """What one training step measured."""

    step: int
    phase: str
    seconds: float
    """Since the stage started."""
    values: Mapping[str, float]


@dataclass(frozen=True)
class Sample:
    """One evaluated held-out question and what the stage's policy answered."""

    id: _Text
    prompt: str
    response: str
    ground_truth: _Text
    correct: bool
    image_png_base64: str | None = None
    reference_caption: str | None = None


@dataclass(frozen=True)
class StageArtifacts:
    """Everything that a report says about one stage."""

    result: StageResult
    metrics: tuple[MetricPoint, ...] = ()
    samples: tuple[Sample, ...] = ()
    damaged_lines: int = 0
    """Lines of metrics.jsonl that could not be read: a kill in mid-write leaves one."""


@dataclass(frozen=True)
class RunArtifacts:
    """A run's stages, in order, and what the whole of it took."""

    name: str
    uid: str
    seed: int
    stages: dict[StageKind, StageArtifacts] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    """Largest resident memory of all the run's processes together."""
    wall_seconds: float = 0.0


def read_stage(folder: Path) -> StageArtifacts:
    """Read a finished attempt's folder; SpecError or StoreError names a damaged file."""
    path = folder / RESULT_FILE
    proof = _bytes(path, "the stage is not done; run it again")
    result = parse_json(StageResult, proof, str(path))
    metrics, damaged = _read_metrics(folder / METRICS_FILE)
    return StageArtifacts(result, metrics, _read_samples(folder / SAMPLES_FILE), damaged)


def _bytes(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def _read_metrics(path: Path) -> tuple[tuple[MetricPoint, ...], int]:
    """Points by phase and step; of a step that a resume repeated, the later line counts."""
    if not path.exists():
        return (), 0
    text = _bytes(path, "make it readable").decode(errors="replace")
    lines = [line for line in text.split("\n") if line.strip()]
    read = [_metric_point(line) for line in lines]
    found = {(point.phase, point.step): point for point in read if point}
    points = sorted(found.values(), key=lambda point: (_phase_order(point.phase), point.step))
    return tuple(points), read.count(None)


def _metric_point(line: str) -> MetricPoint | None:
    try:
        row = json.loads(line)
        values = {key: float(value) for key, value in row.items() if _is_number(value)}
        step, seconds = int(values.pop("step")), values.pop("seconds", 0.0)
    except (ValueError, KeyError, AttributeError, OverflowError):
        return None
    return MetricPoint(step, str(row.get("phase", "train")), seconds, values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _phase_order(phase: str) -> int:
    return PHASES.index(phase) if phase in PHASES else len(PHASES)


_SAMPLES = TypeAdapter(tuple[Sample, ...])


def _read_samples(path: Path) -> tuple[Sample, ...]:
    if not path.exists():
        return ()
    try:
        return _SAMPLES.validate_json(_bytes(path, "make it readable"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "$"
        problem = f"{where}: {first['msg']}"
        raise StoreError(f"{path}: is damaged ({problem}); delete it to go without") from error
