"""The newest iteration of a stage in Prometheus' text format (docs/design.md lists the names)."""

import re

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from prism_api.reporting import ProgressReport
from prism_api.stage_config import StageConfig

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PREFIX = "prism_trainer_"
_OTHERS = "As metrics.jsonl has it, of the newest iteration."


def exposition(config: StageConfig, progress: ProgressReport | None) -> str:
    """Gauges with the labels `run`, `stage`, `phase`; none before the first iteration."""
    registry = CollectorRegistry()
    if progress is not None:
        labels = {"run": config.run.name, "stage": progress.stage, "phase": progress.phase}
        for name, (meaning, value) in _gauges(progress).items():
            gauge = Gauge(_PREFIX + name, meaning, labels, registry=registry)
            gauge.labels(**labels).set(value)
    return generate_latest(registry).decode()


def _gauges(progress: ProgressReport) -> dict[str, tuple[str, float]]:
    """Meaning and value by name."""
    gauges = {_valid(name): (_OTHERS, value) for name, value in progress.metrics.items()}
    gauges["attempt"] = ("Attempt of the stage.", progress.attempt)
    gauges["step"] = ("Iterations of the phase that are done.", progress.step)
    gauges["steps"] = ("Iterations of the phase.", progress.steps)
    if progress.eta_seconds is not None:
        gauges["eta_seconds"] = ("Until the stage's last iteration.", progress.eta_seconds)
    return gauges


def _valid(name: str) -> str:
    return re.sub("[^A-Za-z0-9_]", "_", name)
