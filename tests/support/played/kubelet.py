"""Scheduler and kubelet: every pod plays its part, is stopped, and is removed."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

from played import pod_status
from played.actions import Actions
from played.api import PODS, Json
from played.job_rules import REPLICA_INDEX
from played.mirror import Change, Key
from played.record import Ran
from played.reports import Playing, last_words
from played.script import CrashLoop, Evicted, Exit, Part, Script, Server, Trainer, Vanished
from prism_api.exit_codes import ExitCode
from prism_api.names import ATTEMPT_LABEL, RUN_LABEL, STAGE_LABEL, UID_LABEL

STAGE_FILE = "stage.json"
_MOUNT_AGAIN_S = 0.1
_DISRUPTIONS = {"scheduler": "PreemptionByScheduler", "api": "EvictionByEvictionAPI"}


@dataclass
class Actor:
    """A pod on the stage."""

    pod: Json
    part: Part
    rank: int | None
    """Of a trainer."""
    ip: str = ""
    config: Json | None = None
    """The ConfigMap that it was started with: what is mounted stays."""
    playing: Playing | None = None
    """While it runs."""
    end: Json | None = None
    """Its terminal status, once that is decided."""
    stopping: bool = False
    removing: bool = False
    """Its last request is on its way."""
    task: asyncio.Task[None] | None = None
    cleared: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def labels(self) -> Mapping[str, str]:
        """Of the pod."""
        labels: Mapping[str, str] = self.pod["metadata"]["labels"]
        return labels


class Kubelet:
    """Plays the pods by a script."""

    def __init__(self, actions: Actions, script: Script, configs: Mapping[Key, Json]) -> None:
        self._actions, self._script, self._configs = actions, script, configs
        self._actors: dict[str, Actor] = {}
        self._before: Counter[tuple[str, str]] = Counter()
        self._numbers = count(1)
        self.by_ip: dict[str, Actor] = {}
        """Actors that run."""

    def pod_changed(self, change: Change, pod: Json) -> None:
        """Listener of pods."""
        uid = pod["metadata"]["uid"]
        if change == "DELETED":
            self._leave(uid)
            return
        if uid not in self._actors:
            self._actors[uid] = actor = self._cast(pod)
            actor.task = self._actions.start(self._live(actor))
        actor = self._actors[uid]
        actor.pod = pod
        leaving = actor.stopping or actor.removing
        if "deletionTimestamp" in pod["metadata"] and not leaving:
            actor.stopping = True
            if actor.task:
                actor.task.cancel()
            actor.task = self._actions.start(self._stop(actor))

    def clear(self, run: str) -> None:
        """Whatever keeps the run's pods from running is gone."""
        for actor in self._actors.values():
            if actor.labels.get(RUN_LABEL) == run:
                actor.cleared.set()

    def _cast(self, pod: Json) -> Actor:
        """Who it is, and the part that the script has for it."""
        labels, meta = pod["metadata"]["labels"], pod["metadata"]
        run, stage = labels.get(RUN_LABEL, ""), labels.get(STAGE_LABEL, "")
        index = labels.get(REPLICA_INDEX)
        troupe = meta["name"] if index is not None else f"{run}/{stage}"
        owner = labels[UID_LABEL] + (meta["ownerReferences"][0]["uid"] if index else "")
        before = self._before[owner, troupe]
        self._before[owner, troupe] += 1
        if index is None:
            return Actor(pod, self._script.server(Server(run, stage, before)), None)
        attempt = int(labels.get(ATTEMPT_LABEL, 1))
        who = Trainer(run, stage, attempt, int(index), before)
        return Actor(pod, self._script.trainer(who), int(index))

    def _leave(self, uid: str) -> None:
        if actor := self._actors.pop(uid, None):
            self._fall_silent(actor)
            if actor.task and not actor.removing:
                actor.task.cancel()

    async def _live(self, actor: Actor) -> None:
        """From Pending to its ending; a pod that another player brought so far goes on there."""
        phase = actor.pod["status"].get("phase", "Pending")
        if phase in ("Succeeded", "Failed"):
            return
        if not actor.pod["spec"].get("nodeName"):
            await self._schedule(actor)
        if phase != "Running":
            await self._start(actor)
            await self._mount(actor)
        self._speak_up(actor)
        status = pod_status.running(actor.pod, _now(), actor.ip, actor.part.ready)
        await self._tell(actor, "running", status)
        if isinstance(actor.part.ending, CrashLoop):
            await self._crash(actor, actor.part.ending)
        await _pause(actor.part.run_s if actor.part.hangs_at is None else math.inf)
        await self._finish(actor)

    async def _schedule(self, actor: Actor) -> None:
        await _pause(actor.part.schedule_s)
        obstacle = actor.part.obstacle
        if obstacle and obstacle.reason == "Unschedulable":
            status = pod_status.unschedulable(obstacle.message, _now())
            await self._tell(actor, "unschedulable", status)
            await _either(actor.cleared, obstacle.lasts_s)
        meta = actor.pod["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "uid": meta["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": pod_status.NODE},
        }
        path = PODS.path(meta["namespace"], meta["name"], "binding")
        request = self._actions.api.post(path, binding)
        await self._actions.change(PODS, actor.pod, "scheduled", request)

    async def _start(self, actor: Actor) -> None:
        await self._tell(actor, "waiting", pod_status.waiting(actor.pod, _now()))
        await _pause(actor.part.start_s)
        obstacle = actor.part.obstacle
        if obstacle and obstacle.reason != "Unschedulable":
            why = (obstacle.reason, obstacle.message)
            status = pod_status.waiting(actor.pod, _now(), *why)
            await self._tell(actor, obstacle.reason, status)
            await _either(actor.cleared, obstacle.lasts_s)

    async def _mount(self, actor: Actor) -> None:
        """A trainer's ConfigMap, if it has one; its container is not created before it is there."""
        volumes = actor.pod["spec"].get("volumes", ())
        if actor.rank is None or not any("configMap" in volume for volume in volumes):
            return
        while (config := self._config_of(actor)) is None:
            await asyncio.sleep(_MOUNT_AGAIN_S)
        actor.config = config

    async def _crash(self, actor: Actor, loop: CrashLoop) -> None:
        """Without end: run, end, wait."""
        end = Exit(loop.code, loop.message)
        for restarts in count():
            await _pause(actor.part.run_s if math.isfinite(actor.part.run_s) else 0.1)
            status = pod_status.crash_looping(actor.pod, _now(), end, restarts)
            await self._tell(actor, "crashed", status)
            await _pause(min(30.0, actor.part.start_s * 2**restarts))
            status = pod_status.running(actor.pod, _now(), actor.ip, False, restarts + 1)
            await self._tell(actor, "running", status)

    async def _finish(self, actor: Actor) -> None:
        """Its ending, by the script."""
        ending, meta = actor.part.ending, actor.pod["metadata"]
        path = PODS.path(meta["namespace"], meta["name"])
        if isinstance(ending, Exit):
            await self._end(actor, "ended", pod_status.ended(actor.pod, _now(), self._said(actor)))
        elif isinstance(ending, Vanished):
            await self._remove(actor, "vanished")
        elif isinstance(ending, Evicted) and ending.by == "kubelet":
            await self._end(actor, "evicted", pod_status.evicted(actor.pod, _now()))
        elif isinstance(ending, Evicted):
            why = (_DISRUPTIONS[ending.by], "its place is needed", _now())
            conditions = [*actor.pod["status"]["conditions"], pod_status.disruption(*why)]
            await self._tell(actor, "disrupted", {"conditions": conditions})
            # The answer comes as a change of the pod, which stops this task.
            self._actions.start(self._delete(actor, path))

    async def _delete(self, actor: Actor, path: str) -> None:
        request = self._actions.api.delete(path, actor.pod["metadata"]["uid"])
        await self._actions.change(PODS, actor.pod, "deleted", request)

    def _said(self, actor: Actor) -> Exit:
        """How a container ends that ends by itself."""
        ending = actor.part.ending
        assert isinstance(ending, Exit)
        if ending.code != ExitCode.DONE or actor.rank != 0 or ending.message is not None:
            return ending
        config = actor.config or self._config_of(actor)
        if config is None:
            return Exit(ExitCode.BAD_CONFIG, f"{STAGE_FILE} is missing")
        began_s = actor.playing.began_s if actor.playing else time.monotonic()
        seconds = round(time.monotonic() - began_s, 3)
        return last_words(config["data"][STAGE_FILE], actor.part, seconds)

    def _config_of(self, actor: Actor) -> Json | None:
        meta = actor.pod["metadata"]
        return self._configs.get((meta["namespace"], meta["name"].rpartition("-worker-")[0]))

    async def _stop(self, actor: Actor) -> None:
        """SIGTERM, grace, SIGKILL; then the pod object goes."""
        meta, phase = actor.pod["metadata"], actor.pod["status"].get("phase")
        if actor.end is None and phase not in ("Succeeded", "Failed"):
            end = pod_status.NEVER_STARTED
            if actor.ip or phase == "Running":
                grace_s = float(meta.get("deletionGracePeriodSeconds", 30))
                await _pause(min(actor.part.stop_s, grace_s))
                end = actor.part.stop if actor.part.stop_s <= grace_s else pod_status.KILLED
            actor.end = pod_status.ended(actor.pod, _now(), end)
        if actor.end:
            await self._end(actor, "stopped", actor.end)
        await self._remove(actor, "removed")

    async def _end(self, actor: Actor, what: str, status: Json) -> None:
        actor.end = status
        await self._tell(actor, what, status)
        self._fall_silent(actor)

    async def _remove(self, actor: Actor, what: str) -> None:
        meta = actor.pod["metadata"]
        path = PODS.path(meta["namespace"], meta["name"])
        actor.removing = True
        request = self._actions.api.delete(path, meta["uid"], grace_s=0)
        await self._actions.change(PODS, actor.pod, what, request)

    async def _tell(self, actor: Actor, what: str, status: Json) -> None:
        await self._actions.set_status(PODS, actor.pod, what, status)

    def _speak_up(self, actor: Actor) -> None:
        """It has an address of its own on this machine, and runs."""
        number = next(self._numbers)
        actor.ip = f"127.{1 + number // 65536}.{number // 256 % 256}.{number % 256}"
        self.by_ip[actor.ip] = actor
        labels, uid = actor.labels, actor.pod["metadata"]["uid"]
        run_uid, stage = labels[UID_LABEL], labels.get(STAGE_LABEL, "")
        attempt = labels.get(ATTEMPT_LABEL, "1")
        actor.playing = Playing(run_uid, stage, int(attempt), actor.part, time.monotonic())
        if actor.rank is not None:
            self._actions.record.ran[uid] = Ran(run_uid, stage, attempt, uid, time.time())

    def _fall_silent(self, actor: Actor) -> None:
        self.by_ip.pop(actor.ip, None)
        ran = self._actions.record.ran.get(actor.pod["metadata"]["uid"])
        if ran and ran.ended_at is None:
            ran.ended_at = time.time()


async def _pause(seconds: float) -> None:
    """Sleep; for ever if it is infinite."""
    if math.isfinite(seconds):
        await asyncio.sleep(seconds)
    else:
        await asyncio.Event().wait()


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Until it is set, or the time is over."""
    try:
        await asyncio.wait_for(event.wait(), seconds if math.isfinite(seconds) else None)
    except TimeoutError:
        return


def _now() -> datetime:
    return datetime.now(UTC)
