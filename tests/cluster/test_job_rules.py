"""The played Training Operator's rules, without a cluster."""

from datetime import UTC, datetime
from typing import Any

import pytest

from played.job_rules import next_of, pod_of
from stage_objects import a_job, a_step

Document = dict[str, Any]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def job(replicas: int = 2, **spec: Any) -> Document:
    made = a_job("team", a_step(), replicas=replicas)
    made["metadata"]["uid"] = "5"
    return made | {"spec": made["spec"] | spec}


def pods(made: Document, *phases: str) -> list[Document]:
    return [
        pod_of(made, index) | {"status": {"phase": phase}} for index, phase in enumerate(phases)
    ]


def told(status: Document | None) -> list[str]:
    conditions = (status or {}).get("conditions", ())
    return [each["type"] for each in conditions if each["status"] == "True"]


def test_missing_pods_are_created_and_those_beyond_the_replicas_go() -> None:
    made = job(2)
    assert next_of(made, [], NOW).create == (0, 1)
    surplus = next_of(job(1), pods(made, "Running", "Running"), NOW)
    assert (surplus.create, surplus.delete) == ((), (f"{made['metadata']['name']}-worker-1",))


@pytest.mark.parametrize(
    ("phases", "conditions"),
    [
        (("Pending", "Pending"), ["Created"]),
        (("Running", "Pending"), ["Created", "Running"]),
        (("Succeeded", "Running"), ["Created", "Running"]),
        (("Succeeded", "Succeeded"), ["Created", "Succeeded"]),
        (("Failed", "Running"), ["Created", "Failed"]),
        (("Succeeded", "Failed"), ["Created", "Failed"]),
    ],
)
def test_conditions_follow_from_the_pods(phases: tuple[str, ...], conditions: list[str]) -> None:
    made = job(2)
    assert told(next_of(made, pods(made, *phases), NOW).status) == conditions


def test_an_elastic_job_succeeds_when_any_worker_has() -> None:
    made = job(2, elasticPolicy={})
    assert "Succeeded" in told(next_of(made, pods(made, "Succeeded", "Running"), NOW).status)


def test_a_running_pod_that_is_being_deleted_counts_as_failed() -> None:
    made = job(1)
    (leaving,) = pods(made, "Running")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:00Z"
    assert "Failed" in told(next_of(made, [leaving], NOW).status)


def test_nothing_is_told_or_created_after_the_end() -> None:
    made = job(2)
    made["status"] = next_of(made, pods(made, "Failed", "Running"), NOW).status
    later = next_of(made, [], NOW)
    assert (later.create, later.status) == ((), None)


@pytest.mark.parametrize(
    ("policy", "removed"), [("None", []), ("Running", [1, 2]), ("All", [0, 1, 2])]
)
def test_the_policy_says_which_pods_go_at_the_end(policy: str, removed: list[int]) -> None:
    made = job(3, runPolicy={"cleanPodPolicy": policy})
    there = pods(made, "Failed", "Running", "Pending")
    made["status"] = next_of(made, there, NOW).status
    names = [there[index]["metadata"]["name"] for index in removed]
    assert list(next_of(made, there, NOW).delete) == names


def test_a_suspended_job_loses_its_pods_whatever_the_policy_and_runs_again_later() -> None:
    made = job(1, runPolicy={"cleanPodPolicy": "None", "suspend": True})
    suspended = next_of(made, pods(made, "Running"), NOW)
    assert len(suspended.delete) == 1
    assert told(suspended.status) == ["Created", "Suspended"]
    resumed = job(1) | {"status": suspended.status}
    again = next_of(resumed, [], NOW)
    assert again.create == (0,)
    assert told(again.status) == ["Created"]
