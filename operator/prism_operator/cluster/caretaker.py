"""Makes a run's children what they are to be: creates, repairs, deletes, and no more than that."""

import logging
import math
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress

from prism_api.names import KIND, StageKind
from prism_api.stage_config import RunRef
from prism_api.status import AttemptStatus
from prism_operator.cluster.cache import Cache, Child, Key, child_of, content_of, run_uid_of
from prism_operator.cluster.client import Client, Document
from prism_operator.cluster.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
)
from prism_operator.cluster.resources import BY_KIND, JOBS, PODS, RUNS, SECRETS, Resource
from prism_operator.cluster.runs import ReadRun, RunRecord
from prism_operator.manifests.children import Needed
from prism_operator.manifests.context import attempt_labels, owner_reference
from prism_operator.manifests.drift import differs, enforced
from prism_operator.manifests.hashing import has_other_template, is_for_same_attempt
from prism_operator.manifests.token_secret import build_token_secret
from prism_operator.planning.naming import attempt_name, token_name
from prism_operator.planning.sightings import ChildrenSeen

_log = logging.getLogger(__name__)

_FRESH_SECONDS = 0.5
"""What was stored of a run is trusted for so long, if nothing contradicts it."""


class Refused(Exception):
    """The API server will not have a child; says why and what to do."""


class Caretaker:
    """Of the children of any run."""

    def __init__(self, client: Client, cache: Cache) -> None:
        self._client, self._cache = client, cache

    def doubtful_at(self, record: RunRecord, needed: Iterable[Needed]) -> float | None:
        """When the run has to have been asked for later than, so that what there is to do can be
        done; None: all is as it is to be, as far as the cache knows.

        Another operator may be at work, or may just have been. What it creates it had decided to
        before: a child that is not wanted by what was stored after it was seen is not wanted any
        more. So it had with what it deletes: a child that is wanted by what was stored after it was
        seen to be gone has yet to come.
        """
        wanted = {(BY_KIND[n.kind], n.name): n for n in needed}
        children, unwanted = self._cache.children(record.uid), self._unwanted(record, wanted)
        is_work = any(
            self._is_work(record, child, children.get(key)) for key, child in wanted.items()
        )
        is_sought = bool(self._cache.out_of_sight(record.uid) - wanted.keys())
        if not unwanted and not is_work and not is_sought:
            return None
        newest = max((child.known_since for child in unwanted), default=-math.inf)
        return max(newest, self._absent_since(record)) if is_work or is_sought else newest

    def _absent_since(self, record: RunRecord) -> float:
        """What is wanted has to have been asked for later, to create what is missing."""
        gone_at = self._cache.removed_at(record.uid)
        return max(gone_at, self._cache.clock() - _FRESH_SECONDS)

    async def care(
        self, record: RunRecord, read: ReadRun, needed: Iterable[Needed], seen: ChildrenSeen
    ) -> bool:
        """Do what has to be done; whether all of it was certain enough.

        Raises Refused, or a ClusterError if it has to be tried again.
        """
        wanted = {(BY_KIND[n.kind], n.name): n for n in needed}
        # First, for what is refused below must not keep machines from being given back.
        unwanted = self._unwanted(record, wanted)
        certain = [u for u in unwanted if u.known_since < record.memory.confirmed_at]
        for surplus in certain:
            await self._delete(record, surplus)
        for key in self._cache.out_of_sight(record.uid) - wanted.keys():
            await self._delete_unseen(record, key)
        children = self._cache.children(record.uid)
        if _misses_token(read, seen):
            await self._create_token(record, read)
        for key, child in wanted.items():
            there = children.get(key)
            if there is None:
                if child.is_made:
                    if record.memory.confirmed_at <= self._absent_since(record):
                        return False
                    await self._create(record, read, key, child)
            elif child.is_made and _is_foreign(record, there):
                raise _taken(record, there.resource, there.name, is_deleting=there.is_deleting)
            elif self._is_work(record, child, there):
                await self._repair(record, child, there)
        return len(certain) == len(unwanted)

    async def clear(self, record: RunRecord) -> bool:
        """Delete all children; whether all of them go."""
        return all([await self._delete(record, child) for child in self._unwanted(record, {})])

    async def is_still_there(
        self, record: RunRecord, read: ReadRun, kind: StageKind, attempt: AttemptStatus
    ) -> bool:
        """Whether the PyTorchJob of an attempt is out of sight only because a watch is behind, or
        because somebody took its labels or its owner away; it gets them back."""
        run = read.plan.run
        path = JOBS.path(record.namespace, attempt_name(run, kind, attempt.number))
        try:
            there = await self._client.get(path)
            child = child_of(JOBS, there)
            if child.uid != attempt.job_uid or _is_foreign(record, child):
                return False
            labels = there["metadata"].get("labels", {})
            is_marked = labels | attempt_labels(run, kind, attempt.number) == labels
            if child.owner_uid != record.uid or not is_marked:
                there = await self._client.merge_patch(path, _claim(run, kind, attempt, there))
        except NotFound:
            return False
        self._cache.put(JOBS, there)
        return True

    def _is_work(self, record: RunRecord, child: Needed, there: Child | None) -> bool:
        if there is None:
            return child.is_made
        if _is_foreign(record, there):
            return child.is_made
        is_known = record.memory.checked.get(there.uid) == (there.content, child.attempt)
        return child.is_repaired and not is_known and not there.is_deleting

    def _unwanted(self, record: RunRecord, wanted: Mapping[Key, Needed]) -> list[Child]:
        return [
            child
            for key, child in self._cache.children(record.uid).items()
            if key not in wanted
            and child.resource != PODS
            and child.owner_uid == record.uid
            and not child.is_deleting
        ]

    async def _create(self, record: RunRecord, read: ReadRun, key: Key, child: Needed) -> None:
        assert child.build is not None
        resource, name = key
        if child.kind == "Deployment" and not record.memory.has_token:
            await self._create_token(record, read)
        try:
            made = await self._client.create(resource.path(record.namespace), child.build())
        except AlreadyExists:
            made = await self._adopt(record, resource, name, child.build())
        except (Forbidden, Invalid, NotFound) as error:
            raise Refused(_remedy(resource, name, error)) from error
        _log.info("%s %s is there", resource, name)
        self._cache.put(resource, made)
        record.memory.checked[made["metadata"]["uid"]] = content_of(made), child.attempt

    async def _adopt(
        self, record: RunRecord, resource: Resource, name: str, manifest: Document
    ) -> Document:
        """What is there already, if it is this run's: it was made by an operator that ended before
        it could know, or somebody took its labels away."""
        path = resource.path(record.namespace, name)
        there = await self._client.get(path)
        child = child_of(resource, there)
        if child.owner_uid != record.uid:
            is_going = child.is_deleting or await self._clear_away(record, child, there)
            raise _taken(record, resource, name, is_deleting=is_going)
        if run_uid_of(there) == record.uid:
            return there
        return await self._client.apply(path, _fenced(manifest, there["metadata"]["uid"]))

    async def _clear_away(self, record: RunRecord, child: Child, there: Document) -> bool:
        """Delete what an earlier run of this name has left, for the garbage collector may be slow
        to miss that run; whether it was that.

        If this run is there after the child was, the child's owner is no later one.
        """
        owners = there["metadata"].get("ownerReferences", ())
        marks = {(o["kind"], o["name"]) for o in owners if o["uid"] == child.owner_uid}
        if (KIND, record.name) not in marks:
            return False
        run = await self._client.get(RUNS.path(record.namespace, record.name))
        if run["metadata"]["uid"] != record.uid:
            return False
        await self._delete(record, child)
        return True

    async def _create_token(self, record: RunRecord, read: ReadRun) -> None:
        """Created once and never read: the operator may not."""
        manifest = build_token_secret(read.household.context, secrets.token_urlsafe(32))
        try:
            with suppress(AlreadyExists):
                await self._client.create(SECRETS.path(record.namespace), manifest)
        except (Forbidden, Invalid) as error:
            raise Refused(_remedy(SECRETS, manifest["metadata"]["name"], error)) from error
        record.memory.has_token = True

    async def _repair(self, record: RunRecord, child: Needed, there: Child) -> None:
        """Write a child again under our own field manager, if it is not as it should be."""
        assert child.build is not None
        path = there.resource.path(there.namespace, there.name)
        try:
            actual = await self._client.get(path)
        except NotFound:
            return
        manifest = child.build()
        if has_other_template(manifest, actual):
            # An apply takes away nothing that a creation wrote: it is made anew, but never under
            # the attempt that uses it.
            if not is_for_same_attempt(manifest, actual):
                await self._delete(record, there)
                return
        elif differs(manifest, actual):
            try:
                actual = await self._client.apply(path, _fenced(manifest, there.uid))
            except Conflict:
                return
            except (Forbidden, Invalid) as error:
                raise Refused(_remedy(there.resource, there.name, error)) from error
        self._cache.put(there.resource, actual)
        record.memory.checked[there.uid] = content_of(actual), child.attempt

    async def _delete(self, record: RunRecord, child: Child) -> bool:
        """Whether it goes."""
        try:
            await self._client.delete(child.resource.path(child.namespace, child.name), child.uid)
        except Conflict:
            return False  # another object by now, as will be seen; or not: then it is tried again
        except NotFound:
            pass
        _log.info("%s %s was deleted", child.resource, child.name)
        self._cache.mark_deleting(record.uid, child)
        return True

    async def _delete_unseen(self, record: RunRecord, key: Key) -> None:
        """What is not wanted and is out of sight, if it is still there: somebody took our label
        away, and what it holds would be held until its run is deleted."""
        resource, name = key
        try:
            there = child_of(
                resource, await self._client.get(resource.path(record.namespace, name))
            )
        except NotFound:
            there = None
        is_ours = there is not None and there.owner_uid == record.uid and not there.is_deleting
        if there is None or not is_ours or await self._delete(record, there):
            self._cache.is_gone(record.uid, key)


def _is_foreign(record: RunRecord, there: Child) -> bool:
    """Whether it is somebody else's, for all its labels say; what has lost its owner is ours."""
    return there.owner_uid not in ("", record.uid)


def _taken(record: RunRecord, resource: Resource, name: str, *, is_deleting: bool) -> Refused:
    if is_deleting:
        return Refused(f"{resource} {name} of an earlier owner is being deleted; waits for its end")
    return Refused(
        f"{resource} {name} is there already and belongs to somebody else; "
        "delete or rename it, or give the run another name"
    )


def _claim(run: RunRef, kind: StageKind, attempt: AttemptStatus, there: Document) -> Document:
    """The patch that gives a PyTorchJob its marks back."""
    others = [o for o in there["metadata"].get("ownerReferences", ()) if o["uid"] != run.uid]
    marks = {
        "uid": there["metadata"]["uid"],
        "labels": attempt_labels(run, kind, attempt.number),
        "ownerReferences": [*others, owner_reference(run)],
    }
    return {"metadata": marks}


def _fenced(manifest: Document, uid: str) -> Document:
    """To be applied to this very object, and never to create one."""
    desired = enforced(manifest)
    return desired | {"metadata": desired["metadata"] | {"uid": uid}}


def _misses_token(read: ReadRun, seen: ChildrenSeen) -> bool:
    """Whether a pod waits for the run's own Secret, which somebody has deleted."""
    name = f'"{token_name(read.plan.run)}"'
    return any(name in pod.blocker for pod in seen.pods)


def _remedy(resource: Resource, name: str, error: ClusterError) -> str:
    what = f"{resource} {name}: {error.reason}"
    if isinstance(error, NotFound) and resource == JOBS:
        return f"{what}; install the Kubeflow Training Operator, which brings PyTorchJob"
    if isinstance(error, Forbidden) and "being terminated" in error.reason:
        return f"{what}; create the run in another namespace, or wait until this one is there again"
    if "admission webhook" in error.reason:
        return f"{what}; a webhook of the cluster does not allow it: give it what it asks for"
    if isinstance(error, Forbidden) and "quota" in error.reason:
        return f"{what}; raise the namespace's ResourceQuota, or ask for less"
    if isinstance(error, Forbidden):
        return f"{what}; give the operator's role this right"
    if isinstance(error, NotFound):
        return f"{what}; create it"
    return f"{what}; mend the run's images, workers.template or rollout.template"
