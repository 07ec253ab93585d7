"""Hindrances: what keeps an attempt from starting is found where its pods do not say it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prism_api.names import API_VERSION
from prism_api.resources import Images
from prism_api.status import AttemptStatus, PrismRunStatus, StageStatus
from prism_operator.cluster.hindrances import Hindrances
from prism_operator.cluster.runs import RunReader, RunRecord, status_document
from prism_operator.planning.sightings import ChildrenSeen
from run_builders import UID
from sighting_builders import a_job, a_pod, seen
from small_api import SmallApi, says

START = datetime(2026, 1, 1, tzinfo=UTC)
EVENTS = "/api/v1/namespaces/team/events"
QUEUE = "/apis/kueue.x-k8s.io/v1beta1/namespaces/team/localqueues/team-queue"
SLOW = START.timestamp() + 11


def a_record(*, queue: bool = False, **facts: Any) -> RunRecord:
    """A run whose first attempt has been decided."""
    attempt = AttemptStatus(number=1, started_at=START, **facts)
    status = PrismRunStatus(stages={"sft": StageStatus(attempt=attempt)})
    spec: Any = {
        "model": {"uri": "hf://org/model"},
        "storage": {"uri": "s3://b/x"},
        "stages": {"sft": {"data": [{"uri": "s3://b/sft.parquet"}]}},
    }
    if queue:
        spec["queue"] = {"name": "team-queue"}
    meta = {"name": "run", "namespace": "team", "uid": UID, "resourceVersion": "1"}
    document = {"apiVersion": API_VERSION, "kind": "PrismRun", "metadata": meta, "spec": spec}
    document["status"] = status_document(status)
    return RunReader(Images(trainer="t:1", rollout="r:1")).read(document, None)


def found(
    record: RunRecord,
    children: ChildrenSeen,
    tell: Callable[[SmallApi], None],
    *times: float,
) -> tuple[str, list[Any]]:
    """What is known after looks at some times, and the requests that they cost."""

    async def main() -> tuple[str, list[Any]]:
        async with SmallApi() as api:
            tell(api)
            client = api.client()
            hindrances = Hindrances(client, 10.0)
            for now in times or (SLOW,):
                await hindrances.look(record, children, now)
            await client.close()
            return hindrances.known(record.uid), api.requests

    return asyncio.run(main())


def warning(reason: str, time: str) -> dict[str, Any]:
    return {"metadata": {}, "reason": reason, "message": "why", "lastTimestamp": time}


def quiet(api: SmallApi) -> None:
    api.on("GET", EVENTS, says({"items": []}))


def test_a_young_attempt_is_given_time() -> None:
    text, requests = found(a_record(), seen(job=a_job()), quiet, START.timestamp() + 9)
    assert (text, requests) == ("", [])


def test_servers_that_wait_are_asked_about_before_there_is_a_job() -> None:
    """Such as for a volume of theirs: their pods do not say it."""
    pod = replace(a_pod(phase="Pending"), role="rollout", attempt=0, uid="server-1", name="server")

    def mounts(api: SmallApi) -> None:
        api.on("GET", EVENTS, says({"items": [warning("FailedMount", "2026-01-01T00:00:05Z")]}))

    text, requests = found(a_record(), seen(pod), mounts)
    assert text.startswith("server: FailedMount: why")
    assert "involvedObject.uid=server-1" in requests[0].query["fieldSelector"]


def test_that_a_pod_was_unschedulable_once_is_not_told_of_one_that_pulls_its_image() -> None:
    pod = a_pod(phase="Pending")

    def scheduled_late(api: SmallApi) -> None:
        late = warning("FailedScheduling", "2026-01-01T00:00:05Z")
        api.on("GET", EVENTS, says({"items": [late]}))

    text, _ = found(a_record(), seen(pod, job=a_job()), scheduled_late)
    assert text == ""


def test_what_trains_or_has_no_job_is_not_looked_at() -> None:
    training = a_record(trainer_started_at=START)
    assert found(training, seen(job=a_job()), quiet) == ("", [])
    assert found(a_record(), seen(), quiet) == ("", [])


def test_the_newest_warning_about_the_job_is_told() -> None:
    events = [
        warning("Old", "2026-01-01T00:00:01Z"),
        warning("FailedCreatePod", "2026-01-01T00:00:09Z"),
    ]

    def tell(api: SmallApi) -> None:
        api.on("GET", EVENTS, says({"items": events}))

    text, requests = found(a_record(), seen(job=a_job()), tell)

    assert text == "run-sft-a1: FailedCreatePod: why"
    assert requests[0].query["fieldSelector"] == "involvedObject.uid=job-1,type=Warning"


def test_else_one_about_a_pod_that_waits() -> None:
    def tell(api: SmallApi) -> None:
        mount = {"items": [warning("FailedMount", "2026-01-01T00:00:01Z")]}
        api.on("GET", EVENTS, says({"items": None}), says(mount))

    text, requests = found(a_record(), seen(a_pod(0), a_pod(1, "Pending"), job=a_job()), tell)

    assert text == "run-sft-a1-worker-1: FailedMount: why"
    assert len(requests) == 2


def test_a_queue_that_does_not_exist_is_named() -> None:
    queued = seen(job=a_job(is_queued=True))

    text, _ = found(a_record(queue=True), queued, lambda api: None)
    assert "there is no LocalQueue team-queue in namespace team" in text

    def tell(api: SmallApi) -> None:
        api.on("GET", QUEUE, says({"metadata": {"name": "team-queue"}}))

    assert found(a_record(queue=True), queued, tell)[0] == ""
    by_hand, _ = found(a_record(), queued, lambda api: None)
    assert "suspended by hand" in by_hand


def test_an_api_that_does_not_answer_hinders_nobody() -> None:
    def tell(api: SmallApi) -> None:
        api.on("GET", EVENTS, says({"message": "no"}, 500))
        api.on("GET", QUEUE, says({"message": "no"}, 403))

    assert found(a_record(), seen(job=a_job()), tell)[0] == ""
    assert found(a_record(queue=True), seen(job=a_job(is_queued=True)), tell)[0] == ""


def test_nobody_is_asked_more_often_than_needed_and_what_is_over_is_forgotten() -> None:
    def tell(api: SmallApi) -> None:
        once = {"items": [warning("FailedMount", "2026-01-01T00:00:01Z")]}
        api.on("GET", EVENTS, says(once), says({"items": []}))

    children = seen(job=a_job())
    text, requests = found(a_record(), children, tell, SLOW, SLOW + 5)
    assert (text, len(requests)) == ("run-sft-a1: FailedMount: why", 1)

    text, requests = found(a_record(), children, tell, SLOW, SLOW + 11)
    assert (text, len(requests)) == ("", 2)
