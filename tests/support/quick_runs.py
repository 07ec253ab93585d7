"""Runs of pods that are quick, in a namespace with an operator and a player."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from operated_runs import House, Run
from played import Part, Trainer

QUICK = Part(0.02, 0.02, 0.1, stop_s=0.02, steps=5)
LONG = replace(QUICK, run_s=2.0, steps=40)
STAYS = Part(0.02, 0.02, float("inf"), stop_s=0.02)

Open = Callable[..., AbstractContextManager[House]]


def first(part: Part) -> Callable[[Trainer], Part]:
    """A part for first attempts; others are quick."""
    return lambda who: part if who.attempt == 1 else QUICK


def assert_unharmed(run: Run, restarts: int = 0) -> None:
    """It ends well, and nothing that happened counts as its fault."""
    status = run.ends()
    assert status["restarts"] == restarts
    for stage in status["stages"].values():
        assert stage["restarts"].get("faults", 0) == 0
        assert stage["state"] == "Succeeded"
