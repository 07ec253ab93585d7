"""An operator in memory: reads, decides, stores and cares as the real one does, one step at a time.

It sees of each kind of children what it saw last, or what its own requests were answered; it can be
stopped dead between any two requests.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from prism_api.reporting import ProgressReport
from prism_api.resources import Images
from prism_api.status import PrismRunStatus
from prism_operator.cluster.runs import RunReader, RunRecord, merge_patch, status_document
from prism_operator.manifests.children import Needed
from prism_operator.planning.attempts import moment
from prism_operator.planning.fold import Next, next_status
from prism_operator.planning.sightings import ChildrenSeen
from run_builders import UID, Changes, put
from simulated_cluster import SimulatedCluster

Document = dict[str, Any]
KINDS = ("jobs", "pods", "servers")
"""Of children that are seen each by an informer of its own."""
_DOCUMENT: Document = {
    "apiVersion": "prism.dev/v1alpha1",
    "kind": "PrismRun",
    "metadata": {
        "name": "run", "namespace": "team", "uid": UID, "resourceVersion": "1", "generation": 1
    },
    "spec": {
        "model": {"uri": "hf://org/model"},
        "storage": {"uri": "s3://bucket/x"},
        "rollout": {"backend": "vllm", "gpusPerReplica": 1},
        "stages": {
            "sft": {"data": [{"uri": "s3://b/sft.parquet"}]},
            "align": {"data": {"uri": "s3://b/a.parquet"}},
            "rlvr": {"data": {"uri": "s3://b/r.parquet"}},
        },
    },
}  # fmt: skip

_READER = RunReader(Images(trainer="trainer:1", rollout="rollout:1"))


@dataclass(frozen=True)
class Request:
    """Something that the operator asks of the API server because of what is stored."""

    verb: str
    """create, delete."""
    kind: str
    name: str


def patched(document: Any, patch: Any) -> Any:
    """RFC 7386, section 2, transcribed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = patched(result.get(name), value)
    return result


@dataclass
class SimulatedOperator:
    """Of one run."""

    cluster: SimulatedCluster
    changes: Changes
    document: Document = field(init=False)
    views: dict[str, dict[str, Any]] = field(init=False)
    known: set[tuple[str, str]] = field(default_factory=set)
    """Children without a state that it knows of, by kind and name."""
    progress: ProgressReport | None = None
    trouble: str = ""
    writes: int = 0
    record: RunRecord | None = None

    def __post_init__(self) -> None:
        self.document = put(_DOCUMENT, self.changes)
        self.restart()

    # What it learns.

    def edit(self, changes: Changes) -> None:
        """Its user changes the spec."""
        self.document = put(self.document, changes)
        self.document["metadata"]["generation"] += 1
        self._touch()

    def look_at(self, kind: str) -> None:
        """An informer has caught up."""
        self.views[kind] = dict(getattr(self.cluster, kind))
        self.known = set(self.cluster.others)

    def restart(self) -> None:
        """It starts with a full list of everything, and remembers nothing else."""
        self.views = {}
        for kind in KINDS:
            self.look_at(kind)
        self.progress, self.record, self.trouble = None, None, ""

    @property
    def seen(self) -> ChildrenSeen:
        """What it sees."""
        jobs, pods, servers = (tuple(self.views[kind].values()) for kind in KINDS)
        return ChildrenSeen(jobs, pods, servers, self.progress, trouble=self.trouble)

    @property
    def status(self) -> PrismRunStatus:
        """As it is stored, and read again."""
        return self.read().status

    def read(self) -> RunRecord:
        """The run as a watch shows it."""
        record, version = self.record, int(self.document["metadata"]["resourceVersion"])
        if record is None or record.version != version:
            record = self.record = _READER.read(copy.deepcopy(self.document), record)
        assert record.read is not None, record.refusal
        return record

    # What it does.

    def following(self, now: float, seen: ChildrenSeen | None = None) -> Next:
        """What it would store now."""
        record = self.read()
        assert record.read is not None
        read = record.read
        return next_status(
            read.plan,
            read.run.spec.failure_policy,
            read.wanted,
            record.status,
            seen or self.seen,
            record.generation,
            now,
        )

    def store(self, status: PrismRunStatus) -> bool:
        """Write a status if it is another one; whether it was."""
        stored = self.document.get("status", {})
        patch = merge_patch(stored, status_document(status))
        if not patch:
            return False
        self.document = {**self.document, "status": patched(stored, patch)}
        self.writes += 1
        self._touch()
        return True

    def _touch(self) -> None:
        meta = self.document["metadata"]
        version = str(int(meta["resourceVersion"]) + 1)
        self.document = {**self.document, "metadata": meta | {"resourceVersion": version}}

    def requests(self, now: float) -> Iterator[tuple[Request, Needed | None]]:
        """What the stored status asks for, and is not there as far as it knows."""
        record = self.read()
        assert record.read is not None
        listed = list(record.read.household.needed(record.status, self.seen, moment(now)))
        needed = {(n.kind, n.name): n for n in listed}
        there = self._there()
        for (kind, name), child in needed.items():
            if child.is_made and (kind, name) not in there:
                yield Request("create", kind, name), child
        for (kind, name), is_deleting in there.items():
            if (kind, name) not in needed and not is_deleting:
                yield Request("delete", kind, name), None

    def _there(self) -> dict[tuple[str, str], bool]:
        """Children that it knows of, and whether they are being deleted."""
        jobs = {("PyTorchJob", n): j.is_deleting for n, j in self.views["jobs"].items()}
        servers = {("Deployment", n): s.is_deleting for n, s in self.views["servers"].items()}
        return jobs | servers | dict.fromkeys(sorted(self.known), False)

    def carry_out(self, request: Request, child: Needed | None) -> None:
        """Ask the API server, and take its answer in."""
        cluster, kind, name = self.cluster, request.kind, request.name
        if child is not None and child.is_made and child.build is not None:
            if not cluster.has(kind, name):
                cluster.create(child.build())
            self._take(kind, name)
            return
        view = self._view_of(kind)
        if view is None:
            cluster.delete(kind, name)
            self.known.discard((kind, name))
            return
        truth = getattr(cluster, view).get(name)
        if truth is not None and truth.uid == self.views[view][name].uid:
            cluster.delete(kind, name)
        self.views[view][name] = replace(self.views[view][name], is_deleting=True)

    def _take(self, kind: str, name: str) -> None:
        view = self._view_of(kind)
        if view is None:
            self.known.add((kind, name))
        else:
            self.views[view][name] = getattr(self.cluster, view)[name]

    def _view_of(self, kind: str) -> str | None:
        return {"PyTorchJob": "jobs", "Deployment": "servers"}.get(kind)
