"""What is known of all runs' children: kept by informers, and by what our own writes answered.

Only what decisions need is kept of an object: a thousand runs have to fit a small pod.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from prism_api.names import GROUP, UID_LABEL
from prism_operator.cluster.client import Document
from prism_operator.cluster.observe import Sighting, sighting_of
from prism_operator.cluster.resources import PODS, Resource

Key = tuple[Resource, str]
"""Of a child among its run's: kind and name."""


@dataclass(frozen=True)
class Child:
    """An object that carries a run's UID as its label."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    version: int
    """resourceVersion: a later state of the same object has a larger one."""
    content: int
    """Changes with what is wanted of it, and with what says whose it is; see content_of. Of pods,
    which others make, nothing is wanted."""
    owner_uid: str
    """Of its controller; empty if it has none."""
    is_deleting: bool
    seen: Sighting = None
    known_since: float = 0.0
    """When it was first known here, by the cache's clock."""

    @property
    def key(self) -> Key:
        """Among its run's children."""
        return self.resource, self.name


def child_of(resource: Resource, document: Document) -> Child:
    """What is kept of an object."""
    meta = document["metadata"]
    return Child(
        resource=resource,
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        content=0 if resource == PODS else content_of(document),
        owner_uid=_owner_uid(document),
        is_deleting="deletionTimestamp" in meta,
        seen=sighting_of(resource, document),
    )


def content_of(document: Document) -> int:
    """A digest of generation (resourceVersion where there is none), owner, labels and our own
    annotations: a status that is written does not change it."""
    meta = document["metadata"]
    own = (a for a in meta.get("annotations", {}).items() if a[0].startswith(f"{GROUP}/"))
    marks = (*sorted(meta.get("labels", {}).items()), *sorted(own))
    return hash((meta.get("generation") or meta["resourceVersion"], _owner_uid(document), marks))


class Cache:
    """Children by the UID of their run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        """Seconds since some moment; never goes back."""
        self._runs: dict[str, dict[Key, Child]] = {}
        self._gone: dict[str, int] = {}
        """Version at which an object was deleted, or lost our label, by its UID, until a later
        full list."""

        self._removed_at: dict[str, float] = {}
        """When a child of a run was last seen to be gone."""
        self._out_of_sight: dict[str, set[Key]] = {}
        """What went, of a run, without anybody here having deleted it."""

    def removed_at(self, run_uid: str) -> float:
        """When a child of the run was last seen to be gone, by the clock; -inf: never."""
        return self._removed_at.get(run_uid, -math.inf)

    def out_of_sight(self, run_uid: str) -> frozenset[Key]:
        """Children of the run that a watch says are gone though nobody here has deleted them: they
        may have lost our label only."""
        return frozenset(self._out_of_sight.get(run_uid, ()))

    def is_gone(self, run_uid: str, key: Key) -> None:
        """A child that was out of sight is gone for certain."""
        self._out_of_sight.get(run_uid, set()).discard(key)

    def children(self, run_uid: str) -> Mapping[Key, Child]:
        """Of one run."""
        return self._runs.get(run_uid, {})

    def put(self, resource: Resource, document: Document) -> str | None:
        """Take an object in unless a later state of it is known; the UID of its run, if what is
        kept of it has changed: most events of pods and jobs say nothing that decisions need."""
        run_uid = run_uid_of(document)
        child = child_of(resource, document)
        known = self._runs.get(run_uid, {}).get(child.key)
        newest = max(self._gone.get(child.uid, 0), known.version if known else 0)
        if newest >= child.version:
            return None
        is_same = known is not None and known.uid == child.uid
        since = known.known_since if known is not None and is_same else self.clock()
        child = replace(child, known_since=since)
        self._runs.setdefault(run_uid, {})[child.key] = child
        self.is_gone(run_uid, child.key)  # what went before
        is_news = known is None or replace(known, version=child.version) != child
        return run_uid if is_news else None

    def remove(self, resource: Resource, document: Document) -> str | None:
        """Take a deleted object out; the UID of its run, if that was news."""
        run_uid, meta = run_uid_of(document), document["metadata"]
        key, version = (resource, meta["name"]), int(meta["resourceVersion"])
        known = self._runs.get(run_uid, {}).get(key)
        if known is not None and known.uid == meta["uid"] and known.version > version:
            return None  # it had lost our label, and has it again
        self._gone[meta["uid"]] = version
        return self._drop(run_uid, key, meta["uid"])

    def replace(
        self,
        resource: Resource,
        namespace: str | None,
        documents: Iterable[Document],
        version: int,
    ) -> set[str]:
        """Take in a full list, of a namespace or of all, as of a version; UIDs of the runs for
        which that was news."""
        news, listed = set(), set()
        for document in documents:
            listed.add(document["metadata"]["uid"])
            news.add(self.put(resource, document))
        for run_uid, child in list(self._all(resource)):
            if namespace not in (None, child.namespace):
                continue
            if child.uid not in listed and child.version <= version:
                news.add(self._drop(run_uid, child.key, child.uid))
        self._gone = {uid: at for uid, at in self._gone.items() if at > version}
        return {uid for uid in news if uid}

    def mark_deleting(self, run_uid: str, child: Child) -> None:
        """The API server has agreed to delete it."""
        known = self._runs.get(run_uid, {})
        if known.get(child.key) is child:
            known[child.key] = replace(child, is_deleting=True)

    def forget(self, run_uid: str) -> None:
        """A run that is gone: garbage collection has its children."""
        self._runs.pop(run_uid, None)
        self._removed_at.pop(run_uid, None)
        self._out_of_sight.pop(run_uid, None)

    def forget_empty(self, run_uid: str) -> None:
        """A run that nobody knows; what is left of it is kept until it goes, too."""
        if run_uid not in self._runs:
            self.forget(run_uid)

    def _drop(self, run_uid: str, key: Key, uid: str) -> str | None:
        children = self._runs.get(run_uid, {})
        if key not in children or children[key].uid != uid:
            return None
        if key[0] != PODS and not children[key].is_deleting:
            self._out_of_sight.setdefault(run_uid, set()).add(key)
        del children[key]
        self._removed_at[run_uid] = self.clock()
        if not children:
            del self._runs[run_uid]
        return run_uid

    def _all(self, resource: Resource) -> Iterator[tuple[str, Child]]:
        for run_uid, children in self._runs.items():
            for child in children.values():
                if child.resource == resource:
                    yield run_uid, child


def _owner_uid(document: Document) -> str:
    owners = document["metadata"].get("ownerReferences", ())
    return next((str(o["uid"]) for o in owners if o.get("controller")), "")


def run_uid_of(document: Document) -> str:
    """The run that an object says it belongs to."""
    return str(document["metadata"].get("labels", {}).get(UID_LABEL, ""))
