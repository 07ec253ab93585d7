"""An operator that knows too little neither deletes nor touches what is not its own to judge."""

import asyncio
from typing import cast

import pytest

from prism_api.names import STAGE_LABEL, UID_LABEL
from prism_api.resources import Images
from prism_operator.cluster.cache import Cache
from prism_operator.cluster.caretaker import Caretaker, Refused
from prism_operator.cluster.client import Client, Document
from prism_operator.cluster.errors import ClusterError, Conflict, Forbidden, Invalid, NotFound
from prism_operator.cluster.resources import DEPLOYMENTS, JOBS, SERVICES, Resource
from prism_operator.cluster.runs import RunReader, RunRecord
from prism_operator.manifests.children import Needed
from prism_operator.planning.sightings import ChildrenSeen

UID = "12345678-0000"
SPEC = {
    "model": {"uri": "hf://org/model"},
    "storage": {"uri": "s3://bucket/runs"},
    "stages": {"sft": {"data": [{"uri": "s3://data/sft.parquet"}]}},
}


class Requests:
    """An API server that agrees to everything, after some errors."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.errors: list[ClusterError] = []
        self.there: dict[str, Document] = {}
        """What is there, by path."""

    async def delete(self, path: str, uid: str) -> None:
        self.sent.append(("DELETE", path.rpartition("/")[2]))
        if self.errors:
            raise self.errors.pop()

    async def get(self, path: str) -> Document:
        self.sent.append(("GET", path.rpartition("/")[2]))
        if path not in self.there:
            raise NotFound(path, 404, "not found")
        return self.there[path]

    async def create(self, path: str, manifest: object) -> None:
        raise self.errors.pop()


class World:
    """A run, its children as a cache shows them, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cache, self.api = Cache(lambda: self.now), Requests()
        self.caretaker = Caretaker(cast(Client, self.api), self.cache)
        meta = {"uid": UID, "name": "run", "namespace": "here", "resourceVersion": "1"}
        self.record: RunRecord = RunReader(Images()).read({"metadata": meta, "spec": SPEC}, None)

    def shows(self, resource: Resource, name: str, owner: str = UID, version: int = 2) -> None:
        meta = {
            "uid": f"uid-of-{name}",
            "name": name,
            "namespace": "here",
            "resourceVersion": str(version),
            "labels": {UID_LABEL: UID, STAGE_LABEL: "sft"},
            "ownerReferences": [{"uid": owner, "controller": True}],
        }
        self.cache.put(resource, {"metadata": meta})

    def stays_without_labels(self, resource: Resource, name: str, owner: str = UID) -> None:
        meta = {"uid": f"uid-of-{name}", "name": name, "namespace": "here", "resourceVersion": "9"}
        owners = [{"uid": owner, "controller": True}]
        document = {"metadata": {**meta, "ownerReferences": owners}}
        self.api.there[resource.path("here", name)] = document

    def goes(self, resource: Resource, name: str) -> None:
        meta = {"uid": f"uid-of-{name}", "name": name, "resourceVersion": "9"}
        self.cache.remove(resource, {"metadata": {**meta, "labels": {UID_LABEL: UID}}})

    def cares(self, *needed: Needed) -> list[tuple[str, str]]:
        assert self.record.read is not None, self.record.refusal
        care = self.caretaker.care(self.record, self.record.read, needed, ChildrenSeen())
        asyncio.run(care)
        return self.api.sent


@pytest.fixture
def world() -> World:
    return World()


def test_what_came_after_the_run_was_asked_for_is_not_deleted_yet(world: World) -> None:
    world.record.memory.confirmed_at = 99.0
    world.shows(JOBS, "run-sft-a2")
    doubtful_at = world.caretaker.doubtful_at(world.record, ())
    assert doubtful_at is not None
    assert doubtful_at >= world.record.memory.confirmed_at
    assert world.cares() == []
    world.record.memory.confirmed_at = 101.0
    assert world.cares() == [("DELETE", "run-sft-a2")]


@pytest.mark.parametrize(("error", "times"), [(Conflict, 2), (NotFound, 1)])
def test_a_deletion_that_was_not_made_is_made_again(
    world: World, error: type[ClusterError], times: int
) -> None:
    world.record.memory.confirmed_at = 101.0
    world.shows(JOBS, "run-sft-a2")
    world.api.errors = [error("DELETE", 0, "")]
    world.cares()
    assert world.cares() == [("DELETE", "run-sft-a2")] * times


def test_what_has_lost_our_label_and_is_not_wanted_is_deleted_all_the_same(world: World) -> None:
    world.shows(DEPLOYMENTS, "run-align-rollout")
    world.goes(DEPLOYMENTS, "run-align-rollout")
    world.stays_without_labels(DEPLOYMENTS, "run-align-rollout")
    doubtful_at = world.caretaker.doubtful_at(world.record, ())
    assert doubtful_at is not None
    assert doubtful_at >= world.now - 1
    asked = [("GET", "run-align-rollout"), ("DELETE", "run-align-rollout")]
    world.api.errors = [Conflict("DELETE", 409, "try again")]
    assert world.cares() == asked
    assert world.cares() == asked * 2
    assert world.caretaker.doubtful_at(world.record, ()) is None
    assert world.cares() == asked * 2


@pytest.mark.parametrize("owner", ["another", "nobody is there"])
def test_what_is_gone_or_is_somebody_elses_by_now_is_asked_for_once(
    world: World, owner: str
) -> None:
    world.shows(DEPLOYMENTS, "run-align-rollout")
    world.goes(DEPLOYMENTS, "run-align-rollout")
    if owner == "another":
        world.stays_without_labels(DEPLOYMENTS, "run-align-rollout", owner)
    assert world.cares() == [("GET", "run-align-rollout")]
    assert world.cares() == [("GET", "run-align-rollout")]


def test_what_we_have_deleted_ourselves_is_not_looked_for(world: World) -> None:
    world.record.memory.confirmed_at = 101.0
    world.shows(DEPLOYMENTS, "run-align-rollout")
    world.cares()
    world.goes(DEPLOYMENTS, "run-align-rollout")
    assert world.caretaker.doubtful_at(world.record, ()) is None
    assert world.cares() == [("DELETE", "run-align-rollout")]


def test_a_run_that_somebodys_finalizer_keeps_holds_nothing(world: World) -> None:
    world.shows(JOBS, "run-sft-a1")
    world.shows(DEPLOYMENTS, "run-align-rollout")
    world.shows(SERVICES, "of-another", owner="another")
    world.api.errors = [Conflict("DELETE", 409, "try again")]
    assert not asyncio.run(world.caretaker.clear(world.record))
    assert asyncio.run(world.caretaker.clear(world.record))
    asked = [name for _, name in world.api.sent]
    assert sorted(asked) == ["run-align-rollout", "run-sft-a1", "run-sft-a1"]


@pytest.mark.parametrize(
    ("error", "says", "remedy"),
    [
        (Forbidden, "exceeded quota: q", "raise the namespace's ResourceQuota"),
        (Forbidden, "namespace here is being terminated", "in another namespace"),
        (Forbidden, 'admission webhook "x" denied the request: no', "give it what it asks for"),
        (Forbidden, "cannot create resource", "give the operator's role this right"),
        (NotFound, "no such kind", "install the Kubeflow Training Operator"),
        (Invalid, "spec.x is wrong", "mend the run's images"),
    ],
)
def test_who_may_not_have_a_child_is_told_what_to_do(
    world: World, error: type[ClusterError], says: str, remedy: str
) -> None:
    world.record.memory.confirmed_at = world.now
    world.api.errors = [error("POST", 0, says)]
    with pytest.raises(Refused, match=f"run-sft-a1: {says}; .*{remedy}"):
        world.cares(Needed("PyTorchJob", "run-sft-a1", dict))


def test_later_news_of_a_child_make_it_no_younger(world: World) -> None:
    world.shows(JOBS, "run-sft-a2")
    world.now = 200.0
    world.shows(JOBS, "run-sft-a2", version=3)
    assert world.caretaker.doubtful_at(world.record, ()) == 100.0


def test_what_is_missing_is_made_by_what_was_stored_a_moment_ago_only(world: World) -> None:
    job = Needed("PyTorchJob", "run-sft-a1", dict)
    doubtful_at = world.caretaker.doubtful_at(world.record, [job])
    assert doubtful_at is not None
    assert 95.0 < doubtful_at < 100.0


def test_what_was_seen_to_be_gone_is_made_again_by_what_was_stored_later_only(world: World) -> None:
    world.record.memory.confirmed_at = 99.5
    world.shows(JOBS, "run-sft-a1")
    world.goes(JOBS, "run-sft-a1")
    job = Needed("PyTorchJob", "run-sft-a1", dict)
    assert world.caretaker.doubtful_at(world.record, [job]) == 100.0
    assert world.cares(job) == []


def test_nothing_to_do_asks_for_nothing(world: World) -> None:
    world.shows(JOBS, "run-sft-a1")
    assert (
        world.caretaker.doubtful_at(world.record, [Needed.kept("PyTorchJob", "run-sft-a1")]) is None
    )


@pytest.mark.parametrize("is_repaired", [True, False])
def test_a_strangers_object_with_our_labels_and_name_is_left_alone(
    world: World, is_repaired: bool
) -> None:
    world.shows(SERVICES, "run-rlvr-rollout", owner="another")
    service = Needed("Service", "run-rlvr-rollout", dict, is_repaired=is_repaired)
    assert world.caretaker.doubtful_at(world.record, [service]) is not None
    with pytest.raises(Refused, match="belongs to somebody else; delete or rename it"):
        world.cares(service)
    assert world.api.sent == []
