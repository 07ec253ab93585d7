"""Before an attempt ends without a proof its children are asked for, and what a watch brings in the
meantime counts as well."""

import asyncio
from typing import Any, cast

import pytest

from child_documents import JOB, RUN, a_job, a_pod
from prism_api.names import API_VERSION
from prism_api.resources import Images
from prism_api.status import PrismRunStatus, StageStatus, State
from prism_operator.cluster.cache import Cache
from prism_operator.cluster.client import Client
from prism_operator.cluster.observe import pod_seen
from prism_operator.cluster.poller import Poller
from prism_operator.cluster.reconciler import Reconciler
from prism_operator.cluster.resources import JOBS, PODS
from prism_operator.cluster.runs import RunReader, status_document
from prism_operator.planning.attempts import gang_digest
from sighting_builders import NOW, an_attempt

SPEC = {
    "model": {"uri": "hf://org/model"},
    "storage": {"uri": "s3://b/x"},
    "stages": {"sft": {"data": [{"uri": "s3://b/sft.parquet"}]}},
}
POD = a_pod(2, phase="Running", podIP="10.0.0.1")


class Server:
    """An API server whose watch of pods is as far as its list, or is not."""

    def __init__(self, cache: Cache, *, pods: list[Any], watch_is_first: bool) -> None:
        self._cache, self._pods, self._watch_is_first = cache, pods, watch_is_first
        self.patches: list[Any] = []

    async def list(self, path: str, selector: str) -> dict[str, Any]:
        found = self._pods if path.endswith("/pods") else [a_job(2, 1)]
        if self._watch_is_first:
            for pod in self._pods:
                self._cache.put(PODS, pod)
        return {"items": found}

    async def merge_patch(self, path: str, patch: Any) -> dict[str, Any]:
        self.patches.append(patch["status"])
        return a_run(4, patch["status"])


def a_run(version: int, status: Any) -> dict[str, Any]:
    meta = {"name": "run", "namespace": "team-a", "uid": RUN, "resourceVersion": str(version)}
    head = {"apiVersion": API_VERSION, "kind": "PrismRun", "metadata": meta}
    return {**head, "spec": SPEC, "status": status}


def outcome_stored(server: Server, cache: Cache) -> str | None:
    """By one reconcile of a run whose one pod had started, and is not in the cache."""
    gang = gang_digest((pod_seen(POD),))
    attempt = an_attempt(has_started=False, job_uid=JOB, gang=gang, trainer_started_at=NOW)
    stage = StageStatus(state=State.RUNNING, attempt=attempt)
    stored = status_document(PrismRunStatus(state=State.RUNNING, stages={"sft": stage}))
    poller = Poller(15.0, lambda uid: None, 1)
    reader = RunReader(Images(trainer="t:1", rollout="r:1"))
    client = cast(Client, server)
    reconciler = Reconciler(client, cache, reader, poller, lambda record, before: None, 10.0)
    reconciler.take(a_run(3, stored))
    cache.put(JOBS, a_job(1, 1))
    assert asyncio.run(reconciler.reconcile(RUN)) == 0.0
    stages = (patch.get("stages", {}).get("sft", {}) for patch in server.patches)
    return next((s["attempt"]["outcome"] for s in stages if "attempt" in s), None)


@pytest.mark.parametrize("watch_is_first", [False, True], ids=["the list", "a watch meanwhile"])
def test_an_attempt_whose_pod_is_there_after_all_goes_on(watch_is_first: bool) -> None:
    cache = Cache()
    server = Server(cache, pods=[POD], watch_is_first=watch_is_first)
    assert outcome_stored(server, cache) is None


def test_an_attempt_whose_pod_is_nowhere_was_preempted() -> None:
    cache = Cache()
    server = Server(cache, pods=[], watch_is_first=False)
    assert outcome_stored(server, cache) == "preempted"
