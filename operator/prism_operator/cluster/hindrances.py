"""Looks for what keeps an attempt from starting where its pods do not say it themselves."""

from prism_api.status import AttemptStatus
from prism_operator.cluster.client import Client, Document
from prism_operator.cluster.errors import ClusterError, NotFound
from prism_operator.cluster.resources import CORE_EVENTS, LOCAL_QUEUES
from prism_operator.cluster.runs import RunRecord, current_kinds
from prism_operator.planning.sightings import ChildrenSeen, JobSeen

_PATIENCE_SECONDS = 10.0
"""Nothing is looked for in an attempt that is younger, nor more often than this."""


class Hindrances:
    """What was found, by run."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}
        self._looked_at: dict[str, float] = {}

    def known(self, run_uid: str) -> str:
        """What keeps the run's attempt from starting, as found last."""
        return self._known.get(run_uid, "")

    async def look(self, record: RunRecord, seen: ChildrenSeen, now: float) -> None:
        """Ask for what the children of a slow start do not show."""
        job = _slow_job(record, seen, now)
        if job is None:
            self._known.pop(record.uid, None)
            self._looked_at.pop(record.uid, None)
            return
        if now - self._looked_at.get(record.uid, 0.0) < _PATIENCE_SECONDS:
            return
        self._looked_at[record.uid] = now
        found = await (self._queue(record) if job.is_queued else self._events(record, job, seen))
        if found:
            self._known[record.uid] = found
        else:
            self._known.pop(record.uid, None)

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

    async def _events(self, record: RunRecord, job: JobSeen, seen: ChildrenSeen) -> str:
        """The newest warning about the job, or about a pod of it."""
        gang = [pod for pod in seen.gang(job.kind, job.attempt) if pod.phase == "Pending"]
        for uid, name in [(job.uid, job.name), *((pod.uid, pod.name) for pod in gang[:1])]:
            try:
                fields = f"involvedObject.uid={uid},type=Warning"
                events = await self._client.list(CORE_EVENTS.path(record.namespace), "", fields)
            except ClusterError:
                continue
            if events["items"]:
                newest = max(events["items"], key=_time_of)
                return f"{name}: {newest.get('reason', '')}: {newest.get('message', '')}"
        return ""


def _slow_job(record: RunRecord, seen: ChildrenSeen, now: float) -> JobSeen | None:
    for kind in current_kinds(record):
        attempt = record.status.stages[kind].attempt
        job = seen.job_of(kind, attempt.number) if attempt else None
        if attempt is not None and job is not None and _is_slow(attempt, now):
            return job
    return None


def _is_slow(attempt: AttemptStatus, now: float) -> bool:
    waited = now - attempt.started_at.timestamp()
    return attempt.trainer_started_at is None and waited > _PATIENCE_SECONDS


def _time_of(event: Document) -> str:
    last = event.get("lastTimestamp") or event.get("eventTime")
    return str(last or event["metadata"].get("creationTimestamp", ""))
