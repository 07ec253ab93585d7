"""Where a run stands, read from its folder, and where a number of kills are to hit it."""

import json
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAGES = ("sft", "align", "rlvr")
PHASES = {
    "sft": ("start", "train", "checkpoint", "evaluate", "after"),
    "align": ("start", "warmup", "train", "checkpoint", "evaluate", "after"),
    "rlvr": ("start", "train", "checkpoint", "evaluate", "after"),
}
"""`start`: an attempt has not reported a step yet. `checkpoint`: one is being written. `after`: the
stage has left its result, and the next one, or the report, is still to come."""
REPEATABLE = ("start", "train", "checkpoint")
"""A kill there can be followed by another one in the same phase."""
DELAYS_SECONDS = {
    "start": 6.0,
    "warmup": 1.0,
    "train": 2.5,
    "checkpoint": 0.03,
    "evaluate": 0.4,
    "after": 0.8,
}
"""The longest time between a phase being seen and the kill."""
_ORDER = {"start": 0, "warmup": 1, "checkpoint": 2, "train": 2, "evaluate": 3, "after": 4}


@dataclass(frozen=True)
class Place:
    """A phase of a stage; the step is the last one that was reported."""

    stage: str
    phase: str
    step: int = 0
    steps: int = 0

    def reaches(self, wanted: "Place") -> bool:
        """Whether a run that stands here is at the wanted phase, or can no longer get there."""
        is_there = (self.stage, self.phase) == (wanted.stage, wanted.phase)
        return is_there or self._rank() > wanted._rank()

    def _rank(self) -> tuple[int, int]:
        return STAGES.index(self.stage), _ORDER[self.phase]


def places_to_hit(kills: int, moments: random.Random) -> list[Place]:
    """As many kills for each stage as for any other, in all its phases, in an order in which one
    run can meet them."""
    wanted = []
    for index, stage in enumerate(STAGES):
        phases = list(PHASES[stage])
        moments.shuffle(phases)
        count = (kills + len(STAGES) - 1 - index) // len(STAGES)
        phases = phases[:count] + moments.choices(REPEATABLE, k=max(0, count - len(phases)))
        moments.shuffle(phases)
        # A start can be hit at any time: after each kill there is another one.
        last = _ORDER["train"]
        keys = {"start": moments.uniform(0, last), "after": 5, "evaluate": 4, "warmup": 1}
        phases.sort(key=lambda phase: keys.get(phase, last))
        wanted += [Place(stage, phase) for phase in phases]
    return wanted


def attempts_of(out: Path) -> frozenset[Path]:
    """The work folders of all attempts of a run."""
    return frozenset(out.glob("work/*/a*"))


def place_of(out: Path, before: frozenset[Path]) -> Place:
    """Where a run stands by what it has left; `before`: the attempts of earlier invocations."""
    done = [stage for stage in STAGES if _any(out.glob(f"store/*/*/*/{stage}/a*/result.json"))]
    if len(done) == len(STAGES):
        return Place(STAGES[-1], "after")
    stage = STAGES[len(done)]
    running = [path for path in attempts_of(out) - before if path.parent.name == stage]
    if running:
        return _place_in(out, stage, running[0])
    just_done = any(path.parent.name in done for path in attempts_of(out) - before)
    return Place(done[-1], "after") if just_done else Place(stage, "start")


def _place_in(out: Path, stage: str, work: Path) -> Place:
    try:
        report: dict[str, Any] = json.loads((work / "progress.json").read_text())
    except FileNotFoundError:
        return Place(stage, "start")
    step, steps = report["step"], report["steps"]
    if _writes_checkpoint(out, stage, work):
        return Place(stage, "checkpoint", step, steps)
    return Place(stage, report["phase"], step, steps)


def _writes_checkpoint(out: Path, stage: str, work: Path) -> bool:
    """Whether objects are still in the scratch folder, or in the store without a manifest; an old
    checkpoint that is being deleted is part of it."""
    if any(files for _, _, files in os.walk(work / "checkpoint")):
        return True
    folders = out.glob(f"store/*/*/*/{stage}/{work.name}/step-*")
    return any(not (folder / "manifest.json").exists() for folder in folders)


def _any(paths: Iterable[Path]) -> bool:
    return next(iter(paths), None) is not None
