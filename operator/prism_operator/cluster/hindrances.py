"""Looks for what keeps an attempt from starting where its pods do not say it themselves."""

from dataclasses import dataclass

from prism_api.status import AttemptStatus
from prism_operator.cluster.client import Client, Document
from prism_operator.cluster.errors import ClusterError, NotFound
from prism_operator.cluster.resources import CORE_EVENTS, LOCAL_QUEUES
from prism_operator.cluster.runs import RunRecord, current_kinds
from prism_operator.planning.remedies import with_remedy
from prism_operator.planning.sightings import ChildrenSeen, JobSeen, PodSeen

_SAID_BY_PODS = "FailedScheduling"
"""Pods say themselves whether they are unschedulable now; such a warning says that they were."""


class Hindrances:
    """What was found, by run."""

    def __init__(self, client: Client, patience_seconds: float) -> None:
        """Nothing is looked for in an attempt that is younger, nor more often than that."""
        self._client, self._patience_seconds = client, patience_seconds
        self._known: dict[str, str] = {}
        self._looked_at: dict[str, float] = {}

    def known(self, run_uid: str) -> str:
        """What keeps the run's attempt from starting, as found last."""
        return self._known.get(run_uid, "")

    async def look(self, record: RunRecord, seen: ChildrenSeen, now: float) -> float | None:
        """Ask for what the children of a slow start do not show; seconds until it is to be called
        again, 0 if it has news, None if nothing is waited for."""
        waiting = _waiting(record, seen)
        if waiting is None:
            self.forget(record.uid)
            return None
        since = waiting.attempt.started_at.timestamp()
        pause = max(since, self._looked_at.get(record.uid, 0.0)) + self._patience_seconds - now
        if pause > 0:
            return pause
        before = self.known(record.uid)
        self._looked_at[record.uid] = now
        is_queued = waiting.job is not None and waiting.job.is_queued
        found = await (self._queue(record) if is_queued else self._events(record, waiting))
        if found:
            self._known[record.uid] = found
        else:
            self._known.pop(record.uid, None)
        return 0.0 if found != before else self._patience_seconds

    def forget(self, run_uid: str) -> None:
        """Nothing is known of a run that is gone, or that waits for nothing."""
        self._known.pop(run_uid, None)
        self._looked_at.pop(run_uid, None)

    async def _queue(self, record: RunRecord) -> str:
        assert record.read is not None
        queue = record.read.run.spec.queue
        if queue is None:
            return "its PyTorchJob was suspended by hand; set its runPolicy.suspend to false"
        try:
            await self._client.get(LOCAL_QUEUES.path(record.namespace, queue.name))
        except NotFound:
            return (
                f"queue.name: there is no LocalQueue {queue.name} in namespace {record.namespace}; "
                "create it (and install Kueue if it is missing)"
            )
        except ClusterError:
            return ""
        return ""

    async def _events(self, record: RunRecord, waiting: "_Waiting") -> str:
        """The newest warning about what is waited for."""
        for uid, name in waiting.subjects:
            try:
                fields = f"involvedObject.uid={uid},type=Warning"
                events = await self._client.list(CORE_EVENTS.path(record.namespace), "", fields)
            except ClusterError:
                continue
            warnings = [e for e in events["items"] or () if e.get("reason") != _SAID_BY_PODS]
            if warnings:
                newest = max(warnings, key=_time_of)
                said = f"{name}: {newest.get('reason', '')}: {newest.get('message', '')}"
                return with_remedy(said)
        return ""


@dataclass(frozen=True)
class _Waiting:
    """An attempt that has not started, by what it waits for: its job's pods, or its servers."""

    attempt: AttemptStatus
    job: JobSeen | None
    pod: PodSeen | None

    @property
    def subjects(self) -> list[tuple[str, str]]:
        """UIDs and names of what there may be warnings about."""
        return [(one.uid, one.name) for one in (self.job, self.pod) if one is not None]


def _waiting(record: RunRecord, seen: ChildrenSeen) -> _Waiting | None:
    for kind in current_kinds(record):
        attempt = record.status.stages[kind].attempt
        if attempt is None or attempt.trainer_started_at is not None:
            continue
        job = seen.job_of(kind, attempt.number)
        servers = (p for p in seen.pods if p.role == "rollout" and p.kind == kind)
        pods = seen.gang(kind, attempt.number) if job else servers
        pod = next((p for p in pods if p.phase == "Pending" and not p.is_deleting), None)
        if job is not None or pod is not None:
            return _Waiting(attempt, job, pod)
    return None


def _time_of(event: Document) -> str:
    last = event.get("lastTimestamp") or event.get("eventTime")
    return str(last or event["metadata"].get("creationTimestamp", ""))
