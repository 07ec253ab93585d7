"""What is in store for a run: its spec, what happens to its pods, and what has to come of it.

A run's name says its fate, so that the player's script is a pure function of names.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from played import Evicted, Exit, Obstacle, Part, Script, Server, Trainer, Vanished
from played.script import OUT_OF_MEMORY
from prism_api.exit_codes import ExitCode
from prism_api.names import API_VERSION, KIND

Document = dict[str, Any]

WELL = Part(schedule_s=0.05, start_s=0.05, run_s=0.6, stop_s=0.05)
SERVER = replace(WELL, run_s=math.inf)
_IMAGE = Obstacle("ImagePullBackOff", "Back-off pulling image", lasts_s=0.5)
_STAGES = ("sft", "align", "rlvr")


@dataclass(frozen=True)
class Fate:
    """Of runs that are called after it."""

    bad: Part | None = None
    """What rank 0 of the first attempt at the first stage meets with."""
    always: bool = False
    """Of every attempt, not of the first only."""
    ends: str = "Succeeded"
    """State of the run in the end."""
    attempts: tuple[int, int] = (1, 1)
    """At the first stage, fewest and most, if nobody lays hands on the run."""
    faults: int = 0
    """Of these, how many count as the stage's own."""
    policy: Document = field(default_factory=dict)
    """Its failurePolicy."""
    weight: int = 2
    """How common it is."""


def _ends(ending: Exit | Evicted | Vanished) -> Part:
    return replace(WELL, ending=ending)


FATES = {
    "well": Fate(weight=8),
    "image": Fate(replace(WELL, obstacle=_IMAGE)),
    "crash": Fate(_ends(Exit(ExitCode.CRASHED, "crashed")), attempts=(2, 2), faults=1),
    "memory": Fate(_ends(OUT_OF_MEMORY), attempts=(2, 2), faults=1),
    "evicted": Fate(_ends(Evicted("kubelet")), attempts=(2, 2)),
    # Before the operator knows that they ran, pods that vanish are just made again.
    "preempted": Fate(_ends(Evicted("scheduler")), attempts=(1, 2)),
    "drained": Fate(_ends(Evicted("api")), attempts=(1, 2)),
    "vanished": Fate(_ends(Vanished()), attempts=(1, 2)),
    "hangs": Fate(replace(WELL, hangs_at=3)),
    "data": Fate(
        _ends(Exit(ExitCode.BAD_DATA, "row 7 has no prompt")),
        always=True,
        ends="Failed",
        weight=1,
    ),
    "budget": Fate(
        _ends(Exit(ExitCode.CRASHED, "crashed")),
        always=True,
        ends="Failed",
        attempts=(2, 2),
        faults=1,
        policy={"maxRestarts": 1},
        weight=1,
    ),
}


@dataclass(frozen=True)
class Plan:
    """A run that is to be."""

    name: str
    fate: Fate
    stages: tuple[str, ...]
    document: Document


def draw_plan(chance: random.Random, wave: int, number: int, namespace: str) -> Plan:
    """Any run: one to three stages, one or two pods, with servers or without."""
    kind = chance.choices(list(FATES), [fate.weight for fate in FATES.values()])[0]
    count = chance.choice((1, 1, 2, 3))
    first = chance.choice(range(len(_STAGES) - count + 1))
    stages, name = _STAGES[first : first + count], f"{kind}-{wave}-{number}"
    spec: Document = {
        "model": {"uri": "hf://org/model"},
        "storage": {"uri": "s3://bucket/runs"},
        "workers": {"replicas": chance.choice((1, 1, 2))},
        "failurePolicy": FATES[kind].policy,
        "stages": {stage: _stage(stage) for stage in stages},
    }
    if stages != ("sft",):
        backend = chance.choice(("vllm", "inprocess", "inprocess"))
        spec["rollout"] = {"backend": backend}
    meta = {"name": name, "namespace": namespace}
    document = {"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": spec}
    return Plan(name, FATES[kind], stages, document)


def _stage(kind: str) -> Document:
    data = {"uri": f"s3://data/{kind}.parquet"}
    return {"data": [data]} if kind == "sft" else {"data": data, "steps": 10}


def script(first_stage: Callable[[str], str]) -> Script:
    """The parts of all pods; `first_stage` knows that of a run."""

    def trainer(who: Trainer) -> Part:
        fate = FATES[who.run.partition("-")[0]]
        is_first = (who.attempt == 1 and who.incarnation == 0) or fate.always
        is_met = is_first and who.index == 0 and who.stage == first_stage(who.run)
        return fate.bad if fate.bad is not None and is_met else WELL

    def server(_: Server) -> Part:
        return SERVER

    return Script(trainer, server)
