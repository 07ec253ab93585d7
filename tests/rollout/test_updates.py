"""Weights of the store brought into a running engine: verified, in one piece, or not at all."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prism_api.checkpoint import CheckpointManifest
from prism_api.errors import StoreError
from prism_api.rollout import UpdateDeadlines, Weights
from prism_api.uris import file_uri
from prism_rollout import update
from prism_rollout.fetcher import fetch, tensor_shapes
from prism_rollout.update import UpdateFailed, WeightUpdater
from prism_store.checkpoints import write_checkpoint
from prism_store.store import DirectoryStore

Arrays = dict[str, Any]


def arrays(value: float = 0.0) -> Arrays:
    return {"a.weight": np.full((2, 3), value, np.float32), "b": np.full(4, value, np.float32)}


@dataclass
class World:
    """A store, a server's model and the folder of what it has fetched."""

    root: Path
    model: Path = field(init=False)
    fetched: Path = field(init=False)

    def __post_init__(self) -> None:
        self.model, self.fetched = self.root / "model", self.root / "fetched"
        self.model.mkdir()
        self.fetched.mkdir()
        save_file(arrays(), self.model / "model.safetensors")

    def publish(self, version: int, tensors: Arrays | None = None, more_files: int = 0) -> Weights:
        folder = self.root / "draft"
        folder.mkdir()
        for number in range(more_files):
            (folder / f"more-{number}.json").write_text("{}")
        save_file(tensors or arrays(version), folder / "model-00000.safetensors")
        describe = CheckpointManifest(
            run_uid="00000000",
            stage="rlvr",
            attempt=1,
            step=version,
            weight_version=version,
            config_hash="0" * 64,
            parent=None,
            objects=(),
        )
        store = DirectoryStore(file_uri(self.root / "store"))
        ref = write_checkpoint(store, f"weights/v{version}", folder, describe)
        folder.rmdir()
        return Weights(version=version, checkpoint=ref)

    def object(self, version: int) -> Path:
        return self.root / f"store/weights/v{version}/model-00000.safetensors"

    def fetch(self, weights: Weights) -> Path:
        return fetch(weights, self.fetched, self.model)

    def updater(self, deadlines: UpdateDeadlines | None = None) -> WeightUpdater:
        return WeightUpdater(self.fetched, self.model, deadlines)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_version_is_fetched_as_it_was_published(world: World) -> None:
    folder = world.fetch(world.publish(7))
    tensors = load_file(folder / "model-00000.safetensors")
    assert {name: array.tolist() for name, array in tensors.items()} == {
        name: array.tolist() for name, array in arrays(7).items()
    }


def test_fetched_weights_outlive_their_object_in_the_store(world: World) -> None:
    folder = world.fetch(world.publish(1))
    world.object(1).unlink()
    assert tensor_shapes(folder) == {"a.weight": (2, 3), "b": (4,)}


def test_only_the_two_newest_versions_stay_on_disk(world: World) -> None:
    for version in range(5):
        folder = world.fetch(world.publish(version))
        os.utime(folder, ns=(version, version))
    assert sorted(path.name.split("-")[0] for path in world.fetched.iterdir()) == ["v3", "v4"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"), "content differs"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, its manifest says"),
        (lambda path: path.unlink(), "no such object"),
    ],
    ids=["altered", "cut off", "missing"],
)
def test_a_damaged_object_is_refused_by_name(
    world: World, change: Callable[[Path], None], complaint: str
) -> None:
    weights = world.publish(2)
    change(world.object(2))
    with pytest.raises(StoreError, match=rf"v2/model-00000.safetensors.*{complaint}"):
        world.fetch(weights)
    assert list(world.fetched.iterdir()) == []


def test_another_digest_than_the_published_one_is_refused(world: World) -> None:
    first, second = world.publish(1), world.publish(2)
    ref = first.checkpoint.model_copy(update={"digest": second.checkpoint.digest})
    with pytest.raises(StoreError, match=r"v1/manifest.json: was altered"):
        world.fetch(Weights(version=1, checkpoint=ref))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("b"), "tensor b is missing here and of shape .4."),
        (lambda t: t.update(c=np.zeros(1)), "tensor c is of shape .1. here and missing"),
        (
            lambda t: t.update({"a.weight": np.zeros((3, 2), np.float32)}),
            "tensor a.weight is of shape .3, 2. here and of shape .2, 3.",
        ),
    ],
    ids=["missing", "extra", "transposed"],
)
def test_tensors_of_another_model_are_refused_by_name(
    world: World, change: Callable[[Arrays], None], complaint: str
) -> None:
    tensors = arrays()
    change(tensors)
    with pytest.raises(StoreError, match=complaint):
        world.fetch(world.publish(1, tensors))


@dataclass
class FakeEngine:
    """Notes what it is told; one call may fail or hang."""

    breaks: str = ""
    hangs: str = ""
    calls: list[str] = field(default_factory=list)

    async def pause_generation(self, *, mode: Any, clear_cache: bool) -> None:
        await self._note("pause" if clear_cache else "abort")

    async def resume_generation(self) -> None:
        await self._note("resume")

    async def collective_rpc(
        self, method: str, timeout: float | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[None]:
        assert method == "reload_weights"
        assert Path(kwargs["weights_path"]).is_dir()
        await self._note("load")
        return [None]

    async def _note(self, name: str) -> None:
        self.calls.append(name)
        await asyncio.sleep(0)
        if name == self.breaks:
            raise RuntimeError("engine core died")
        if name == self.hangs:
            await asyncio.sleep(3600)


def test_an_update_pauses_loads_and_resumes(world: World) -> None:
    engine, updater, weights = FakeEngine(), world.updater(), world.publish(3)
    assert updater.current is None
    asyncio.run(updater.update(engine, weights))
    assert engine.calls == ["pause", "load", "resume"]
    assert updater.current == weights


def test_what_is_in_use_is_not_loaded_again(world: World) -> None:
    engine, updater, weights = FakeEngine(), world.updater(), world.publish(3)

    async def twice_at_once() -> None:
        await asyncio.gather(updater.update(engine, weights), updater.update(engine, weights))

    asyncio.run(twice_at_once())
    assert engine.calls == ["pause", "load", "resume"]


def test_updates_at_the_same_time_do_not_interleave(world: World) -> None:
    engine, updater = FakeEngine(), world.updater()
    first, second = world.publish(1), world.publish(2)

    async def both() -> None:
        await asyncio.gather(updater.update(engine, first), updater.update(engine, second))

    asyncio.run(both())
    assert engine.calls == ["pause", "load", "resume"] * 2
    assert updater.current == second


def test_damaged_weights_leave_the_engine_as_it_was(world: World) -> None:
    engine, updater, good, bad = (
        FakeEngine(),
        world.updater(),
        world.publish(1),
        world.publish(2),
    )
    world.object(2).unlink()
    asyncio.run(updater.update(engine, good))
    with pytest.raises(StoreError):
        asyncio.run(updater.update(engine, bad))
    assert engine.calls == ["pause", "load", "resume"]
    assert updater.current == good


def test_a_retry_waits_for_the_fetch_that_has_missed_its_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one beside it could take, or leave, half a version."""
    goes_on, fetches = threading.Event(), list[Weights]()

    def slow_fetch(weights: Weights, folder: Path, model: Path) -> Path:
        fetches.append(weights)
        assert goes_on.wait(20)
        return fetch(weights, folder, model)

    monkeypatch.setattr(update, "fetch", slow_fetch)
    updater, engine, weights = (
        world.updater(UpdateDeadlines(fetch=0.1)),
        FakeEngine(),
        world.publish(1),
    )

    async def scenario() -> None:
        for _ in range(2):
            with pytest.raises(UpdateFailed, match=r"fetch: took longer than 0\.1 s"):
                await updater.update(engine, weights)
        goes_on.set()
        while updater.current is None:
            with suppress(UpdateFailed):
                await updater.update(engine, weights)

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert fetches == [weights]
    assert updater.current == weights


def test_two_fetches_of_a_version_at_once_leave_it_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is stopped between its files until the second has begun."""
    weights = world.publish(1, arrays(1), more_files=3)
    first_is_half_done, second_is_done = threading.Event(), threading.Event()
    link, calls = os.link, list[str]()

    def stopping_link(source: Path, target: Path) -> None:
        link(source, target)
        calls.append(target.name)
        if len(calls) == 2:
            first_is_half_done.set()
            assert second_is_done.wait(20)

    monkeypatch.setattr(os, "link", stopping_link)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(world.fetch, weights)
        assert first_is_half_done.wait(20)
        whole = sorted(path.name for path in world.fetch(weights).iterdir())
        second_is_done.set()
        with suppress(StoreError):
            slow.result()
    (left,) = world.fetched.iterdir()
    assert sorted(path.name for path in left.iterdir()) == whole
    assert len(whole) == 4


@dataclass
class Crowd:
    """Requests that are rendered for a while, as vLLM does before its engine has them, and last
    until the engine is told to abort them."""

    updater: WeightUpdater
    engine: "AbortingEngine"

    async def ask(self, rendering: float) -> Weights | None:
        """The weights with which it was answered."""
        with self.updater.request():
            await asyncio.sleep(rendering)
            ended = asyncio.Event()
            self.engine.running.append(ended)
            await ended.wait()
            return self.updater.current


@dataclass
class AbortingEngine(FakeEngine):
    """Ends all that it has when it is paused, and nothing that comes later."""

    running: list[asyncio.Event] = field(default_factory=list)

    async def pause_generation(self, *, mode: Any, clear_cache: bool) -> None:
        assert mode == "abort"
        await super().pause_generation(mode=mode, clear_cache=clear_cache)
        for ended in self.running:
            ended.set()
        self.running.clear()


def test_no_request_crosses_an_update_even_if_the_engine_gets_it_late(world: World) -> None:
    engine, updater = AbortingEngine(), world.updater()
    crowd, seen = Crowd(updater, engine), list[int]()

    async def scenario() -> list[Weights | None]:
        first, second = world.publish(1), world.publish(2)
        await updater.update(engine, first)
        engine.calls.clear()
        requests = [asyncio.create_task(crowd.ask(0.04 * i)) for i in range(6)]
        await asyncio.sleep(0.01)
        for request in requests:
            request.add_done_callback(lambda _: seen.append(len(engine.calls)))
        await updater.update(engine, second)
        await updater.update(engine, first)
        return await asyncio.gather(*requests)

    answered_with = asyncio.run(asyncio.wait_for(scenario(), 20))
    assert answered_with == [None] * 6, "or a server that gets its old weights back passes for it"
    aborts = engine.calls.index("pause")
    assert engine.calls[:aborts] == ["abort"] * aborts
    assert max(seen) <= aborts < len(engine.calls), "caches are cleared after the last request"
    assert engine.calls[aborts:] == ["pause", "load", "resume"] * 2
    assert not updater.is_changing


def test_a_request_that_never_ends_is_found_by_the_pauses_deadline(world: World) -> None:
    updater = world.updater(UpdateDeadlines(pause=0.3))

    async def scenario() -> None:
        with updater.request():
            await updater.update(FakeEngine(), world.publish(1))

    with pytest.raises(UpdateFailed, match=r"pause: took longer than 0\.3 s"):
        asyncio.run(scenario())
    assert not updater.is_changing


@pytest.mark.parametrize("part", ["pause", "load", "resume"])
def test_a_part_that_fails_is_named_and_nobody_is_served_until_the_next_try(
    world: World, part: str
) -> None:
    engine, updater, weights = FakeEngine(breaks=part), world.updater(), world.publish(1)
    with pytest.raises(UpdateFailed, match=f"{part}: RuntimeError: engine core died"):
        asyncio.run(updater.update(engine, weights))
    assert updater.current is None
    engine.breaks = ""
    asyncio.run(updater.update(engine, weights))
    assert updater.current == weights


@pytest.mark.parametrize("part", ["pause", "load", "resume"])
def test_a_part_that_hangs_is_named_after_its_deadline(world: World, part: str) -> None:
    updater = world.updater(UpdateDeadlines(fetch=9, pause=0.05, load=0.05, resume=0.05))
    with pytest.raises(UpdateFailed, match=f"{part}: took longer than 0.05 s"):
        asyncio.run(updater.update(FakeEngine(hangs=part), world.publish(1)))
    assert updater.current is None
