"""What an executor sees of a run: the input of `decide`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from prism_api.names import StageKind
from prism_api.stage_config import StageResult


@dataclass(frozen=True)
class AttemptObserved:
    """One attempt of a stage as its executor found it."""

    number: int
    state: Literal["running", "ended", "preempted", "interrupted"]
    """`preempted`: the platform took its machine away (eviction, node loss), whatever its processes
    said to that. `interrupted`: its user or its runner stopped it, which may happen without end."""
    exit_code: int | None = None
    """Of an attempt that ended by itself; none if it left no code."""
    message: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    has_stepped: bool = False
    """Whether it has reported a step."""
    is_outdated: bool = False
    """Whether it waits to start and was made of settings that its user has changed since."""


@dataclass(frozen=True)
class PastAttempts:
    """Attempts of a stage that an executor only counts any more."""

    faults: int = 0
    preemptions: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class RunObserved:
    """All attempts of all stages, and what the user wants."""

    attempts: Mapping[StageKind, tuple[AttemptObserved, ...]]
    """Oldest first."""
    results: Mapping[StageKind, StageResult]
    """Complete results, by stage."""
    suspend: bool = False
    cancel: bool = False
    past: Mapping[StageKind, PastAttempts] = field(default_factory=dict)
    """Attempts older than those in `attempts`."""
    draining: frozenset[tuple[StageKind, int]] = frozenset()
    """Attempts that are over but still hold machines."""
