"""The player as a whole: in a thread of its own beside a test, or as a process."""

import asyncio
import contextlib
import threading
import time
from types import TracebackType
from typing import Self

from event_loops import reset_connections
from played.actions import Actions
from played.api import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    PODS,
    POLICIES,
    SECRETS,
    SERVICES,
    Api,
    Credentials,
    Json,
    Kind,
)
from played.kubelet import Kubelet
from played.mirror import Change, Listener, Mirror
from played.progress_server import ProgressServer
from played.record import Record
from played.script import Script
from played.training_operator import TrainingOperator
from prism_api.names import UID_LABEL
from prism_api.reporting import TRAINER_PORT

_ONLY_RECORDED = (DEPLOYMENTS, SERVICES, SECRETS, POLICIES)


class Player:
    """Plays everything that has the label prism.dev/run-uid in a namespace, or in all.

    `with Player(url, credentials, script) as player:` plays in a thread of its own from the moment
    that it has seen what there is until the block ends; `await player.run()` plays in this loop.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        script: Script,
        *,
        namespace: str | None = None,
        port: int = TRAINER_PORT,
        record: Record | None = None,
    ) -> None:
        self.record = record or Record()
        """Everything that was seen and sent."""
        self._url, self._credentials, self._script = url, credentials, script
        self._namespace = namespace
        self.port = port
        """Of GET /progress; 0 becomes a free one."""
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Play until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with Api(self._url, self._credentials) as api:
            actions = Actions(api, self.record)
            mirrors = self._rehearse(actions)
            runner = await ProgressServer(self._kubelet.by_ip).start(self.port)
            self.port = runner.addresses[0][1]
            following = [asyncio.create_task(mirror.run()) for mirror in mirrors]
            try:
                await asyncio.gather(*(mirror.synced.wait() for mirror in mirrors))
                self._ready.set()
                await asyncio.gather(*following)
            finally:
                for task in (*following, *actions.tasks):
                    task.cancel()
                await asyncio.gather(*following, *actions.tasks, return_exceptions=True)
                await runner.cleanup()

    def check(self) -> None:
        """Raise if it plays no more."""
        if self._failure:
            raise RuntimeError("the player broke down") from self._failure

    def clear(self, run: str) -> None:
        """Whatever keeps that run's pods from running is gone."""
        self._loop.call_soon_threadsafe(self._kubelet.clear, run)

    def _rehearse(self, actions: Actions) -> list[Mirror]:
        """Who follows what."""

        def mirror(kind: Kind, *listeners: Listener) -> Mirror:
            told = (self._recorder(kind), *listeners)
            return Mirror(actions.api, kind, self._namespace, UID_LABEL, _all(told))

        configs = mirror(CONFIG_MAPS)
        operator = TrainingOperator(actions)
        self._kubelet = Kubelet(actions, self._script, configs.objects)
        jobs = mirror(JOBS, operator.job_changed)
        pods = mirror(PODS, operator.pod_changed, self._kubelet.pod_changed)
        return [configs, jobs, pods, *map(mirror, _ONLY_RECORDED)]

    def _recorder(self, kind: Kind) -> Listener:
        def listen(change: Change, thing: Json) -> None:
            if change == "ADDED":
                self.record.came(kind.name, thing, time.time())
            elif change == "DELETED":
                self.record.went(thing, time.time())

        return listen

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._play, name="player", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure:
            raise RuntimeError("the player could not start") from self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._playing.cancel)
        self._thread.join()
        if self._failure and error is None:
            raise RuntimeError("the player broke down") from self._failure

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _play(self) -> None:
        try:
            asyncio.run(self._until_cancelled())
        except Exception as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _until_cancelled(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._playing = asyncio.create_task(self.run())
        with contextlib.suppress(asyncio.CancelledError):
            await self._playing
        await reset_connections()


def _all(listeners: tuple[Listener, ...]) -> Listener:
    def tell(change: Change, thing: Json) -> None:
        for listener in listeners:
            listener(change, thing)

    return tell
