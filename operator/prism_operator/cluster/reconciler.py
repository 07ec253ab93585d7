"""One reconcile of one run: observe, decide, store once, then care for its children.

Level-triggered: whatever happened, the same is done. `planning/fold.py` decides; here is only the
order in which the world is asked and told.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace

from prism_api.names import ATTEMPT_LABEL, KIND, STAGE_LABEL, UID_LABEL
from prism_api.reasons import Reason
from prism_api.status import PrismRunStatus
from prism_operator.cluster.cache import Cache
from prism_operator.cluster.caretaker import Caretaker, Refused
from prism_operator.cluster.client import Client, Document
from prism_operator.cluster.errors import ClusterError, Conflict, NotFound, Throttled
from prism_operator.cluster.hindrances import Hindrances
from prism_operator.cluster.poller import Poller
from prism_operator.cluster.resources import JOBS, PODS, RUNS
from prism_operator.cluster.runs import (
    Memory,
    ReadRun,
    RunReader,
    RunRecord,
    current_kinds,
    document_to_store,
    merge_patch,
)
from prism_operator.planning.attempts import moment
from prism_operator.planning.fold import has_ended_unproven, next_status
from prism_operator.planning.sightings import ChildrenSeen, JobSeen, PodSeen, ServersSeen
from prism_operator.planning.summary import refused

_log = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS = 30.0
_GRACE_SECONDS = 15.0
"""Pause before a run is looked at again whose ended attempts have a moment left."""

_TOLD_FAILURES = 6
"""Answers in a row that are no success after which they are told: about three seconds."""
_AFTERWARDS_SECONDS = 1.0
"""Pause before a run is looked at again for which something was created or deleted: the answer says
all that there is to know of it, so no event of it may be news."""

OnStored = Callable[[RunRecord, PrismRunStatus], None]
"""Told of a run, as it is now, and of its status before."""


class Reconciler:
    """Of all runs."""

    def __init__(
        self,
        client: Client,
        cache: Cache,
        reader: RunReader,
        poller: Poller,
        on_stored: OnStored,
        patience_seconds: float,
        on_error: Callable[[Exception], None] = lambda error: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`patience_seconds`: pause before what was refused is tried again, and before a slow
        start is asked for its reason."""
        self._client, self._cache, self._reader = client, cache, reader
        self._poller, self._on_stored, self._clock = poller, on_stored, clock
        self._on_error = on_error
        self._caretaker = Caretaker(client, cache)
        self._patience_seconds = patience_seconds
        self._hindrances = Hindrances(client, patience_seconds)
        self.records: dict[str, RunRecord] = {}
        """Every run that is known, by its UID."""

    def take(self, document: Document) -> str | None:
        """A run as a watch shows it; its UID, if that is news."""
        uid = document["metadata"]["uid"]
        before = self.records.get(uid)
        if before is not None and before.version >= int(document["metadata"]["resourceVersion"]):
            return None
        self.records[uid] = self._reader.read(document, before)
        return str(uid)

    def forget(self, uid: str) -> None:
        """A run that was deleted: its children have it as their owner and go with it."""
        self.records.pop(uid, None)
        self._cache.forget(uid)
        self._hindrances.forget(uid)
        self._poller.forget(uid)

    async def reconcile(self, uid: str) -> float | None:
        """Bring a run forward by one step; seconds until it is to be looked at again, if nothing
        happens before; 0: at once."""
        record = self.records.get(uid)
        if record is None:
            self._cache.forget_empty(uid)
            return None
        try:
            pause = await (self._clear(record) if record.is_deleting else self._step(record))
            record.memory.failures = 0
            return pause
        except Throttled as error:
            self._on_error(error)
            return error.retry_after_seconds
        except (Refused, ClusterError) as error:
            self._on_error(error)
            return self._failed(record.memory, error)

    def _failed(self, memory: Memory, error: Refused | ClusterError) -> float:
        """Remember why; seconds until it is tried again."""
        if isinstance(error, Refused):
            is_told = bool(memory.trouble)
            memory.trouble = str(error)
            return self._patience_seconds if is_told else 0.0
        memory.failures += 1
        memory.confirmed_at = -math.inf
        if memory.failures >= _TOLD_FAILURES and error.code:
            memory.trouble = str(error)
        _log.info("%s", error)
        return min(_LONGEST_PAUSE_SECONDS, 0.05 * 2.0 ** min(memory.failures, 20))

    async def _clear(self, record: RunRecord) -> float | None:
        """A run that is on its way out, and is kept by somebody's finalizer, holds no machines."""
        return None if await self._caretaker.clear(record) else _GRACE_SECONDS

    async def _step(self, record: RunRecord) -> float | None:
        now = self._clock()
        read, seen = record.read, self._seen(record)
        if read is None or not record.can_go_on:
            why = Reason.INVALID_SPEC if record.is_readable else Reason.UNREADABLE_STATUS
            facts = (why, record.refusal, record.generation, moment(now))
            await self._store(record, refused(record.status, *facts))
            return None
        if await self._has_found_again(record, read, seen):
            return 0.0
        following = next_status(
            read.plan,
            read.run.spec.failure_policy,
            read.wanted,
            record.status,
            seen,
            record.generation,
            now,
        )
        self._watch_progress(record, seen)
        if has_ended_unproven(record.status, following.status):
            await self._look_again(record)
            if self._seen(record) != seen:  # by that, or by a watch in the meantime
                return 0.0
        if await self._store(record, following.status):
            return 0.0
        pause = await self._care(record, read, seen, now)
        pauses = [following.requeue_after_seconds, pause]
        return min((p for p in pauses if p is not None), default=None)

    def _seen(self, record: RunRecord) -> ChildrenSeen:
        children = self._cache.children(record.uid).values()
        own = [c.seen for c in children if c.owner_uid in ("", record.uid)]
        seen = ChildrenSeen(
            jobs=tuple(s for s in own if isinstance(s, JobSeen)),
            # A pod without a controller is nobody's child, whatever its labels say.
            pods=tuple(c.seen for c in children if isinstance(c.seen, PodSeen) and c.owner_uid),
            servers=tuple(s for s in own if isinstance(s, ServersSeen)),
            progress=self._poller.newest(record.uid),
            unreached=self._poller.unreached(record.uid),
            trouble=record.memory.trouble,
        )
        if not seen.trouble:
            seen = replace(seen, trouble=self._hindrances.known(record.uid))
        return seen

    async def _has_found_again(self, record: RunRecord, read: ReadRun, seen: ChildrenSeen) -> bool:
        """Whether a PyTorchJob that was thought to be gone is there: an attempt is not given up,
        nor another one started beside it, for a label that somebody took away."""
        for kind in current_kinds(record):
            attempt = record.status.stages[kind].attempt
            uid = attempt.job_uid if attempt else None
            if attempt is None or uid is None or seen.job_of(kind, attempt.number):
                continue
            if uid not in record.memory.gone and kind in read.run.stages:
                if await self._caretaker.is_still_there(record, read, kind, attempt):
                    return True
                record.memory.gone.add(uid)
        return False

    def _watch_progress(self, record: RunRecord, seen: ChildrenSeen) -> None:
        """Have rank 0 of what runs asked for its progress."""
        kind = record.status.current_stage
        stage = record.status.stages.get(kind) if kind else None
        attempt = stage.attempt if stage else None
        if kind is None or attempt is None or attempt.outcome is not None:
            self._poller.forget(record.uid)
            return
        first = next((p for p in seen.gang(kind, attempt.number) if p.index == 0), None)
        if first is not None and first.phase == "Running" and first.address:
            self._poller.watch(record.uid, first.address)

    async def _store(self, record: RunRecord, status: PrismRunStatus) -> bool:
        """Write the status if it is another one; whether it was. Fenced: of this very run, as we
        know it."""
        wanted = document_to_store(record, status)
        patch = merge_patch(record.stored, wanted)
        if not patch or patch == record.residue:
            return False
        fence = {"uid": record.uid, "resourceVersion": str(record.version)}
        path = RUNS.path(record.namespace, record.name, "status")
        sent_at = self._cache.clock()
        try:
            document = await self._client.merge_patch(path, {"metadata": fence, "status": patch})
        except Conflict:
            await self._refresh(record)
            return True
        except NotFound:
            self.forget(record.uid)
            return True
        before = record.status
        self._confirm(document, sent_at)
        if record.uid not in self.records:
            return True
        record = self.records[record.uid]
        record.residue = merge_patch(record.stored, wanted)
        if record.residue:
            _log.error("the CRD of %s lacks status fields: update it (%s)", KIND, record.residue)
        self._on_stored(record, before)
        return True

    async def _refresh(self, record: RunRecord) -> None:
        """Ask for the newest state of a run."""
        sent_at = self._cache.clock()
        try:
            document = await self._client.get(RUNS.path(record.namespace, record.name))
        except NotFound:
            self.forget(record.uid)
            return
        if document["metadata"]["uid"] != record.uid:
            self.forget(record.uid)  # another run of the same name
            return
        self._confirm(document, sent_at)

    def _confirm(self, document: Document, sent_at: float) -> None:
        uid = document["metadata"]["uid"]
        if uid in self.records:  # or it was deleted before the answer came
            self.take(document)
            self.records[uid].memory.confirmed_at = sent_at

    async def _look_again(self, record: RunRecord) -> None:
        """Ask for what the caches do not show of an attempt, before it ends because of that."""
        for kind in current_kinds(record):
            attempt = record.status.stages[kind].attempt
            assert attempt is not None
            marks = {UID_LABEL: record.uid, STAGE_LABEL: kind, ATTEMPT_LABEL: attempt.number}
            selector = ",".join(f"{label}={value}" for label, value in marks.items())
            for resource in (JOBS, PODS):
                listed = await self._client.list(resource.path(record.namespace), selector)
                for document in listed["items"] or ():
                    self._cache.put(resource, document)

    async def _care(
        self, record: RunRecord, read: ReadRun, seen: ChildrenSeen, now: float
    ) -> float | None:
        needed = list(read.household.needed(record.status, seen, moment(now)))
        doubtful_at = self._caretaker.doubtful_at(record, needed)
        if doubtful_at is not None:
            if record.memory.confirmed_at <= doubtful_at:
                version = record.version
                await self._refresh(record)
                fresh = self.records.get(record.uid)
                if fresh is None or fresh.version != version:
                    return 0.0
                record = fresh
            if not await self._caretaker.care(record, read, needed, seen):
                return 0.0
        record.memory.trouble = ""
        pauses = [
            await self._hindrances.look(record, seen, now),
            read.household.expires_in(record.status, moment(now)),
        ]
        if doubtful_at is not None:
            pauses.append(_AFTERWARDS_SECONDS)
        if any(_is_fading(record, job) for job in seen.jobs):
            pauses.append(_GRACE_SECONDS)
        return min((p for p in pauses if p is not None), default=None)


def _is_fading(record: RunRecord, job: JobSeen) -> bool:
    """Whether a job is over and may have to go before anything else happens."""
    stage = record.status.stages.get(job.kind)
    attempt = stage.attempt if stage else None
    return attempt is None or attempt.number != job.attempt or attempt.outcome is not None
