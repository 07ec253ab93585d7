"""Three-stage runs that an operator is stopped in, and what has to be the same at their ends."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from api_cluster import ApiCluster
from played import Evicted, Exit, Part, Player, Script, Server, Trainer, from_kubeconfig
from prism_api.exit_codes import ExitCode
from prism_api.names import API_VERSION, KIND, PLURAL
from prism_api.status import FINISHED

Document = dict[str, Any]

KINDS = (
    ("kubeflow.org/v1", "pytorchjobs"),
    ("apps/v1", "deployments"),
    ("apps/v1", "replicasets"),
    ("v1", "services"),
    ("networking.k8s.io/v1", "networkpolicies"),
    ("v1", "configmaps"),
    ("v1", "secrets"),
    ("v1", "pods"),
)
"""All that may be left in a namespace."""
_NOT_OURS = {("configmaps", "kube-root-ca.crt")}
PATIENCE_SECONDS = 60.0
_TICK_SECONDS = 0.1
_LOOK_SECONDS = 0.25
"""Pause between looks at all that a finished run has left: nine requests each."""

WELL = Part(0.02, 0.02, 0.05, stop_s=0.02, progress="not yet")
STAYS = replace(WELL, run_s=math.inf)
HANGS = replace(STAYS, progress="told", hangs_at=3)


class Operator(Protocol):
    """One that can be stopped dead and started again."""

    @property
    def is_alive(self) -> bool: ...

    def start(self) -> object: ...


@dataclass(frozen=True)
class View:
    """What a run's user sees of it."""

    cluster: ApiCluster
    namespace: str
    name: str

    def run(self) -> Document:
        """The PrismRun; its status is there, if empty."""
        found = self.cluster.admin.get(API_VERSION, PLURAL, self.name, self.namespace)
        return {"status": {}} | found

    def change(self, spec: Document) -> None:
        """Change some of its spec."""
        self.cluster.admin.patch(API_VERSION, PLURAL, self.name, self.namespace, {"spec": spec})

    def objects(self) -> list[tuple[str, Document]]:
        """All in the namespace, by resource."""
        return [
            (plural, thing)
            for version, plural in KINDS
            for thing in self.cluster.admin.list(version, plural, self.namespace)
            if (plural, thing["metadata"]["name"]) not in _NOT_OURS
        ]

    def is_there(self, plural: str) -> bool:
        """Whether there is anything of a kind."""
        return any(plural == found for found, _ in self.objects())


@dataclass(frozen=True)
class Scenario:
    """A run, what happens to its pods, and what its user does."""

    name: str
    """Of the run, too."""
    spec: Mapping[str, Any]
    trainer: Callable[[Trainer], Part]
    attempts: Mapping[str, int]
    """At each stage, when the run is over."""
    user: Callable[[View, Document], None] = lambda view, run: None
    """Looks at the run now and then, and acts."""


def _well(who: Trainer) -> Part:
    return WELL


def _sft_crashes_rlvr_is_evicted(who: Trainer) -> Part:
    """One process of a gang is struck in the first attempt, and the other one hangs."""
    struck: dict[tuple[str, int], Exit | Evicted] = {
        ("sft", 1): Exit(ExitCode.CRASHED, "crashed"),
        ("rlvr", 0): Evicted("kubelet"),  # what stays to be seen; what is deleted is replaced
    }
    if who.attempt > 1 or who.stage == "align":
        return WELL
    ending = struck.get((who.stage, who.index))
    return replace(WELL, ending=ending) if ending else HANGS


def _align_waits(who: Trainer) -> Part:
    return HANGS if (who.stage, who.attempt) == ("align", 1) else replace(WELL, progress="told")


def _suspends(view: View, run: Document) -> None:
    """In the first attempt at alignment; resumes once nothing of it is held any more."""
    if run["spec"].get("suspend"):
        if run["status"].get("state") == "Suspended" and not view.is_there("deployments"):
            view.change({"suspend": False})
    elif _trains(run, "align"):
        view.change({"suspend": True})


def _trains(run: Document, kind: str) -> bool:
    """Whether the first attempt at a stage trains."""
    attempt = run["status"].get("stages", {}).get(kind, {}).get("attempt", {})
    is_first = attempt.get("number") == 1 and attempt.get("outcome") is None
    return is_first and "trainerStartedAt" in attempt


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("well", {}, _well, {"sft": 1, "align": 1, "rlvr": 1}),
        Scenario(
            "faults",
            {"workers": {"replicas": 2}},
            _sft_crashes_rlvr_is_evicted,
            {"sft": 2, "align": 1, "rlvr": 2},
        ),
        Scenario(
            "suspended",
            {"ttlSecondsAfterFinished": 0},
            _align_waits,
            {"sft": 1, "align": 2, "rlvr": 1},
            _suspends,
        ),
    )
}
"""Nothing happens; a process of a gang crashes, another one is evicted; suspended and resumed, and
all children go at the end. Rollouts of two stages have servers in all of them."""


def a_run(scenario: Scenario, namespace: str) -> Document:
    """The PrismRun of a scenario."""
    stages = {
        "sft": {"data": [{"uri": "s3://data/sft.parquet"}]},
        "align": {"data": {"uri": "s3://data/align.parquet"}, "steps": 10},
        "rlvr": {"data": {"uri": "s3://data/rlvr.parquet"}, "steps": 10},
    }
    spec = {
        "model": {"uri": "hf://org/model"},
        "storage": {"uri": "s3://bucket/runs"},
        "rollout": {"backend": "vllm", "replicas": 2},
        "evaluation": {"data": {"uri": "s3://data/heldout.parquet"}},
        "stages": stages,
    }
    meta = {"name": scenario.name, "namespace": namespace}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": meta,
        "spec": {**spec, **scenario.spec},
    }


def player_of(cluster: ApiCluster) -> Player:
    """Plays the pods of all runs of all scenarios, in any namespace."""
    url, credentials = from_kubeconfig(cluster.admin_kubeconfig)

    def trainer(who: Trainer) -> Part:
        return SCENARIOS[who.run].trainer(who)

    def server(who: Server) -> Part:
        return STAYS

    return Player(url, credentials, Script(trainer, server), port=0)


@dataclass(frozen=True)
class Outcome:
    """Where a run has got to, without what differs from one run to the next."""

    ending: Document
    """State, stages, attempts, restarts, results."""
    left: frozenset[str]
    """Objects in its namespace, by resource and name."""
    created: Mapping[str, int]
    """Objects that ever had a name; of rollout servers, pods of a stage."""
    alive: frozenset[str]
    """Pods that hold machines."""
    overlapping: int
    """Pairs of pods of different attempts that ran at the same time."""


def attempts_of(outcome: Outcome) -> dict[str, int]:
    """Attempts at each stage."""
    return {kind: stage["attempt"]["number"] for kind, stage in outcome.ending["stages"].items()}


def differences(expected: Outcome, actual: Outcome) -> list[str]:
    """What is not the same, a line each."""
    names = ("state and stages", "children", "objects ever created", "live pods", "overlaps")
    pairs = (
        (expected.ending, actual.ending),
        (dict.fromkeys(expected.left, 1), dict.fromkeys(actual.left, 1)),
        (expected.created, actual.created),
        (dict.fromkeys(expected.alive, 1), dict.fromkeys(actual.alive, 1)),
        ({"": expected.overlapping}, {"": actual.overlapping}),
    )
    return [
        f"{name}: {where or 'in all'} is {now!r}, and not {before!r}"
        for name, (wanted, found) in zip(names, pairs, strict=True)
        for where, before, now in _unequal(_flat(wanted), _flat(found))
    ]


def _unequal(wanted: Document, found: Document) -> list[tuple[str, Any, Any]]:
    keys = sorted(wanted.keys() | found.keys())
    every = ((key, wanted.get(key), found.get(key)) for key in keys)
    return [each for each in every if each[1] != each[2]]


def _flat(document: Mapping[str, Any], at: str = "") -> Document:
    flat: Document = {}
    for key, value in document.items():
        where = f"{at}.{key}" if at else key
        flat |= _flat(value, where) if isinstance(value, dict) else {where: value}
    return flat


def finish(
    view: View,
    player: Player,
    operator: Operator,
    expected: Outcome | None,
    interfere: Callable[[Document], None] = lambda run: None,
) -> Outcome:
    """Create the run and restart the operator whenever it is dead, until the run is over and all
    is as expected, or nothing changes any more; but not for ever.

    `interfere` is shown the run again and again.
    """
    scenario = SCENARIOS[view.name]
    uid = view.cluster.admin.create(a_run(scenario, view.namespace))["metadata"]["uid"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    newest, since = None, time.monotonic()
    while time.monotonic() < deadline:
        run = view.run()
        interfere(run)
        if not operator.is_alive:
            operator.start()
        scenario.user(view, run)
        if run["status"].get("state") not in FINISHED:
            time.sleep(_TICK_SECONDS)
            continue
        outcome = _outcome(view, player, uid)
        if outcome != newest:
            newest, since = outcome, time.monotonic()
        if time.monotonic() - since > _patience(outcome, expected):
            return outcome
        time.sleep(_LOOK_SECONDS)
    return _outcome(view, player, uid)


def _patience(outcome: Outcome, expected: Outcome | None) -> float:
    """Seconds without any change after which an outcome is the last one."""
    if expected is None:
        return 3.0
    return 10.0 if differences(expected, outcome) else 0.4


def _outcome(view: View, player: Player, uid: str) -> Outcome:
    def general(text: str) -> str:
        return text.replace(uid, "UID").replace(uid[:8], "UID8").replace(view.namespace, "NS")

    objects = view.objects()
    pods = [thing for plural, thing in objects if plural == "pods"]
    record = player.record
    seen = [one for one in list(record.seen.values()) if one.run_uid == uid]
    ran = [pair for pair in record.together() if pair[0].run_uid == uid]
    return Outcome(
        ending=json.loads(general(json.dumps(_ending(view.run()["status"])))),
        left=frozenset(general(f"{of} {thing['metadata']['name']}") for of, thing in objects),
        created=Counter(_named(one, general) for one in seen),
        alive=frozenset(pod["metadata"]["name"] for pod in pods if _holds(pod)),
        overlapping=len(ran),
    )


def _named(seen: Any, general: Callable[[str], str]) -> str:
    is_server = seen.kind == "Pod" and not seen.attempt
    return f"servers of {seen.stage}" if is_server else f"{seen.kind} {general(seen.name)}"


def _holds(pod: Document) -> bool:
    return pod["status"].get("phase") not in ("Succeeded", "Failed")


def _ending(status: Document) -> Document:
    """Of a status what does not depend on time, or on the run's UID."""
    kept = ("state", "message", "currentStage", "restarts", "accuracy")
    conditions = {c["type"]: f"{c['status']} {c['reason']}" for c in status.get("conditions", ())}
    stages = {kind: _stage(stage) for kind, stage in status.get("stages", {}).items()}
    return {key: status.get(key) for key in kept} | {"conditions": conditions, "stages": stages}


def _stage(stage: Document) -> Document:
    attempt, proof = stage.get("attempt", {}), stage.get("result", {})
    result = proof.get("result", {})
    return {
        "state": stage.get("state"),
        "attempt": {key: attempt.get(key) for key in ("number", "outcome", "exitCode")},
        "restarts": {key: stage["restarts"].get(key) for key in ("faults", "preemptions")},
        "result": proof.get("uri"),
        "of attempt": result.get("attempt"),
        "steps": result.get("steps"),
        "checkpoint": result.get("checkpoint", {}).get("uri"),
    }
