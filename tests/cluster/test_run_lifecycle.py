"""What users ask of a run and what ends it: suspend, resume, cancel, delete, deadlines, budgets."""

from dataclasses import replace
from typing import Any

import pytest

from api_cluster import ApiCluster, wait_for
from operated_runs import (
    CONFIGS,
    DEPLOYMENTS,
    JOBS,
    PATIENT,
    PODS,
    Document,
    Run,
    a_run,
)
from operator_rights import operator_kubeconfig
from played import Evicted, Exit, Player, Script, from_kubeconfig
from prism_api.names import API_VERSION, PLURAL
from quick_runs import QUICK, STAYS, Open, assert_unharmed, first
from running_operator import RunningOperator

pytestmark = pytest.mark.cluster

LONG = replace(QUICK, run_s=30.0, steps=600)
CRASH = replace(QUICK, ending=Exit(1, "crashed"))
HANGS = replace(QUICK, hangs_at=0)
SERVERS: dict[str, Any] = {"rollout": {"backend": "vllm"}}


def test_a_suspended_run_holds_nothing_and_goes_on_where_it_was(house: Open) -> None:
    with house(first(LONG)) as at:
        run = at.run("run", "align", **SERVERS)
        run.trains("align")
        run.change(suspend=True)
        run.ends("Suspended")
        assert run.condition("Suspended")["status"] == "True"
        wait_for("nothing is held", lambda: not at.names(PODS) | at.names(DEPLOYMENTS))
        at.stays("suspended", lambda: run.status["state"] == "Suspended", 0.7)
        run.change(suspend=False)
        status = run.ends()
        assert status["stages"]["align"]["restarts"] == {"faults": 0, "preemptions": 0} | {
            "seconds": status["stages"]["align"]["restarts"]["seconds"]
        }
        assert run.event("Resumed")


def test_a_run_that_is_created_suspended_makes_nothing(house: Open) -> None:
    with house(first(QUICK)) as at:
        run = at.run(suspend=True)
        run.ends("Suspended")
        assert at.is_empty()
        run.change(suspend=False)
        run.ends()


@pytest.mark.parametrize("before", [{}, {"suspend": True}], ids=["running", "suspended"])
def test_a_cancelled_run_ends_and_holds_nothing(house: Open, before: Document) -> None:
    with house(lambda who: LONG) as at:
        run = at.run("run", "align", **SERVERS)
        run.trains("align")
        if before:
            run.change(**before)
            run.ends("Suspended")
        run.change(cancel=True)
        run.ends("Cancelled")
        assert run.condition("Failed")["reason"] == "Cancelled"
        wait_for("nothing is held", lambda: not at.names(PODS) | at.names(DEPLOYMENTS))


def test_a_deleted_run_takes_everything_along_without_a_finalizer(house: Open) -> None:
    with house(lambda who: LONG) as at:
        run = at.run("run", "align", **SERVERS)
        run.trains("align")
        assert "finalizers" not in run.document()["metadata"]
        at.cluster.admin.delete(API_VERSION, PLURAL, "run", at.namespace)
        wait_for("its children go", at.is_empty)


def test_children_of_a_finished_run_go_after_its_time_to_live_and_the_run_stays(
    house: Open,
) -> None:
    with house(lambda who: QUICK) as at:
        run = at.run(keepChildren={"succeeded": True, "failed": True}, ttlSecondsAfterFinished=2)
        run.ends()
        assert at.names(JOBS) == {"run-sft-a1"}
        assert at.names(PODS) == {"run-sft-a1-worker-0"}
        wait_for("they go", at.is_empty, 10.0)
        at.stays("its status", lambda: run.status["state"] == "Succeeded", 0.5)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_children_of_an_outcome_are_kept_as_asked(house: Open, outcome: str, keeps: bool) -> None:
    part = QUICK if outcome == "succeeded" else CRASH
    with house(lambda who: part) as at:
        keep = {"succeeded": not keeps, "failed": not keeps} | {outcome: keeps}
        run = at.run(keepChildren=keep, failurePolicy={"maxRestarts": 0})
        run.ends("Succeeded" if outcome == "succeeded" else "Failed")
        expected = {"run-sft-a1"} if keeps else set()
        wait_for("what is kept", lambda: at.names(JOBS) == at.names(CONFIGS) == expected)
        at.stays("it", lambda: at.names(JOBS) == expected, 0.7)


def test_an_attempt_that_makes_no_step_before_its_deadline_is_tried_again_and_counts(
    house: Open,
) -> None:
    with house(first(HANGS)) as at:
        run = at.run(failurePolicy={"startDeadlineSeconds": 1})
        run.ends()
        assert run.stage()["restarts"]["faults"] == 1
        assert "startDeadlineSeconds" in run.event("AttemptFailed")["note"]


def test_an_attempt_that_trains_out_of_sight_is_not_stopped_and_the_run_says_why(
    house: Open,
) -> None:
    """As behind a NetworkPolicy that keeps the operator out."""
    with house(lambda who: replace(QUICK, run_s=5.0, progress="cut")) as at:
        run = at.run(failurePolicy={"startDeadlineSeconds": 2})
        run.until("it is told", lambda: "does not answer" in run.status.get("message", ""))
        assert run.condition("Running")["status"] == "True"
        assert "NetworkPolicy" in run.status["message"]
        assert "startTime" in run.status, "its settings can be changed no more"
        assert_unharmed(run)
        assert run.status["message"] == ""


def test_a_stage_that_takes_longer_than_its_deadline_fails(house: Open) -> None:
    with house(lambda who: LONG) as at:
        policy = {"startDeadlineSeconds": 1, "stageDeadlineSeconds": 2}
        run = at.run(failurePolicy=policy)
        run.ends("Failed")
        failed = run.condition("Failed")
        assert failed["reason"] == "StageDeadlineExceeded"
        assert "stageDeadlineSeconds (2)" in failed["message"]
        wait_for("nothing is held", lambda: not at.names(PODS))


def test_preemptions_are_bounded_by_themselves(house: Open) -> None:
    taken = replace(QUICK, run_s=0.3, ending=Evicted())
    with house(lambda who: taken) as at:
        run = at.run(failurePolicy={"maxPreemptions": 1, "maxRestarts": 0})
        run.ends("Failed")
        assert run.condition("Failed")["reason"] == "PreemptionsExceeded"
        assert run.stage()["restarts"]["faults"] == 0
        assert run.attempt()["number"] == 2


def test_a_failed_run_goes_on_when_its_policy_is_widened(house: Open) -> None:
    with house(first(CRASH)) as at:
        run = at.run(failurePolicy={"maxRestarts": 0})
        failed_at = run.ends("Failed")["completionTime"]
        run.change(failurePolicy={"maxRestarts": 1})
        status = run.ends()
        assert status["stages"]["sft"]["attempt"]["number"] == 2
        assert status["completionTime"] > failed_at
        assert status["stages"]["sft"]["endedAt"] > failed_at


def test_a_run_of_a_deleted_ones_name_waits_until_that_ones_pods_have_gone(house: Open) -> None:
    slow = replace(LONG, stop_s=1.5)
    uids: list[str] = []

    with house(lambda who: QUICK if uids else slow) as at:
        old = at.run("run", "align", **SERVERS)
        old.trains("align")
        uids.append(old.document()["metadata"]["uid"])
        at.cluster.admin.delete(API_VERSION, PLURAL, "run", at.namespace)
        new = at.run("run", "align", **SERVERS)
        assert new.document()["metadata"]["uid"] not in uids
        status = new.ends()
        assert status["restarts"] == 0
        assert not at.player.record.created_twice("PyTorchJob")


@pytest.mark.parametrize("name", ["7b-alignment", "a" * 40, "4" + "b" * 39])
def test_runs_of_any_name_end_well(house: Open, name: str) -> None:
    with house(lambda who: QUICK) as at:
        run = at.run(name, "sft", "align", "rlvr", **SERVERS)
        assert_unharmed(run)
        wait_for("its children go", lambda: not at.names(PODS) | at.names(DEPLOYMENTS))


def test_what_a_deleted_run_left_makes_way_for_one_of_its_name_without_a_garbage_collector(
    house: Open, cluster: ApiCluster
) -> None:
    with house(lambda who: QUICK) as at:
        kept: dict[str, Any] = {"keepChildren": {"succeeded": True}}
        at.run(**kept).ends()
        before = {kind: at.get(kind, "run-sft-a1")["metadata"]["uid"] for kind in (JOBS, CONFIGS)}

        def is_another(job: Document | None) -> bool:
            return job is not None and job["metadata"]["uid"] != before[JOBS]

        cluster.pause("kube-controller-manager")
        try:
            at.delete((API_VERSION, PLURAL), "run")
            run = at.run(**kept)
            wait_for("a job of its own", lambda: is_another(at.find(JOBS, "run-sft-a1")))
        finally:
            cluster.resume("kube-controller-manager")
        run.ends()
        after = {kind: at.get(kind, "run-sft-a1")["metadata"]["uid"] for kind in (JOBS, CONFIGS)}
        assert before[JOBS] != after[JOBS]
        assert before[CONFIGS] != after[CONFIGS]


def test_runs_of_one_name_in_two_namespaces_know_nothing_of_each_other(
    cluster: ApiCluster, namespace: str
) -> None:
    other = cluster.new_namespace()
    url, credentials = from_kubeconfig(cluster.admin_kubeconfig)
    script = Script(lambda who: LONG if who.attempt == 1 else QUICK, lambda who: STAYS)
    with Player(url, credentials, script, port=0) as player:
        places = [namespace, other]
        rights = operator_kubeconfig(cluster, namespace, places)
        with RunningOperator(rights, places, progress_port=player.port, pace=PATIENT):
            runs = [Run(cluster, place, "run") for place in places]
            for place in places:
                cluster.admin.create(a_run(place))
            for run in runs:
                run.trains()
            runs[0].change(cancel=True)
            runs[0].ends("Cancelled")
            assert runs[1].attempt()["number"] == 1
            assert runs[1].status["state"] == "Running"
            cluster.admin.delete(*PODS, "run-sft-a1-worker-0", other)
            runs[1].ends()
            assert runs[0].status["state"] == "Cancelled"
            runs[0].cluster.admin.delete(API_VERSION, PLURAL, "run", namespace)
            assert runs[1].status["state"] == "Succeeded"
    cluster.delete_namespace(other)
