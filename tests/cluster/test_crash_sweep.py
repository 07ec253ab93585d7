"""A few points of the crash sweep (`make crash-sweep` has all), and what the sweep stands on."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from api_cluster import ApiCluster, wait_for
from crash_points import Calm, Point, Theatre, stop_at
from operator_rights import operator_kubeconfig
from running_operator import RunningOperator, Write
from swept_runs import SCENARIOS, View, a_run, attempts_of, differences, player_of

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def theatre(cluster: ApiCluster) -> Iterator[Theatre]:
    cluster.install_crds([ROOT / "crds/prismruns.prism.dev.yaml"])
    with player_of(cluster) as player:
        yield Theatre(cluster, player)
        assert player.record.troubles == []


@pytest.fixture(scope="module")
def calm(theatre: Theatre) -> Calm:
    return theatre.calm("well")


def assert_same(points: list[Point], at_least: int) -> None:
    assert [point for point in points if point.lost] == []
    assert len([point for point in points if point.where]) >= at_least


def test_an_undisturbed_run_succeeds_and_leaves_its_token_alone(calm: Calm) -> None:
    assert calm.outcome.ending["state"] == "Succeeded"
    assert calm.outcome.left == {"secrets well-UID8-rollout"}
    assert calm.outcome.created["servers of align"] == calm.outcome.created["servers of rlvr"] == 2
    assert (calm.outcome.alive, calm.outcome.overlapping) == (frozenset(), 0)


def test_a_run_ends_the_same_wherever_its_operator_is_stopped_dead(
    theatre: Theatre, calm: Calm
) -> None:
    last = len(calm.writes) - 4
    assert_same(list(theatre.some("well", calm, (1, 3, 12, last))), 8)


def test_a_run_ends_the_same_when_its_operator_gets_sigkill(theatre: Theatre, calm: Calm) -> None:
    assert_same(list(theatre.kills("well", calm, kills=3, seed=int(time.time()))), 3)


@pytest.mark.parametrize("scenario", sorted(SCENARIOS.keys() - {"well"}))
def test_so_does_one_that_meets_with_faults_or_is_suspended(
    theatre: Theatre, scenario: str
) -> None:
    undisturbed = theatre.calm(scenario)
    assert attempts_of(undisturbed.outcome) == SCENARIOS[scenario].attempts
    assert_same(list(theatre.some(scenario, undisturbed, (20,))), 2)


def test_what_differs_is_named(calm: Calm) -> None:
    outcome = calm.outcome
    more = {**outcome.created, "PyTorchJob well-sft-a1": 2}
    left = outcome.left | {"pytorchjobs well-rlvr-a1"}
    ending = {**outcome.ending, "restarts": 1}
    worse = replace(outcome, ending=ending, created=more, left=left, alive=frozenset({"pod"}))
    assert differences(outcome, outcome) == []
    assert differences(outcome, worse) == [
        "state and stages: restarts is 1, and not 0",
        "children: pytorchjobs well-rlvr-a1 is 1, and not None",
        "objects ever created: PyTorchJob well-sft-a1 is 2, and not 1",
        "live pods: pod is 1, and not None",
    ]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_dead_operator_sends_nothing_and_what_it_sent_before_is_done(
    theatre: Theatre, namespace: str, moment: str
) -> None:
    view = View(theatre.cluster, namespace, "well")
    stop = stop_at(moment, "POST configmaps/well-sft-a1")
    rights = operator_kubeconfig(theatre.cluster, namespace)
    operator = RunningOperator(rights, [namespace], progress_port=1)
    operator.on_write = stop
    operator.start()
    theatre.cluster.admin.create(a_run(SCENARIOS["well"], namespace))
    wait_for("the operator's end", lambda: not operator.is_alive, 20)
    later = [write.path for write in operator.writes[stop.hit.index + 1 :]] if stop.hit else None
    assert later is not None
    assert all("/events/" in path for path in later)  # were under way
    assert view.is_there("configmaps") == (moment == "after")
    assert not view.is_there("pytorchjobs")


def test_a_killed_operator_ends_at_once_and_starts_anew(theatre: Theatre, namespace: str) -> None:
    where = (operator_kubeconfig(theatre.cluster, namespace), [namespace])
    writes: list[Write] = []

    def note(write: Write, moment: str) -> bool:
        writes.append(write)
        return False

    operator = RunningOperator(*where, progress_port=theatre.player.port, on_write=note).start()
    operator.kill()
    assert not operator.is_alive
    with operator:
        theatre.cluster.admin.create(a_run(SCENARIOS["well"], namespace))
        wait_for("a write", lambda: writes, 20)
    assert not operator.is_alive
