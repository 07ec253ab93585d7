"""The operator in a thread of a test, with a loop, connections and memory of its own; it can be
stopped dead at any of its writes.

Everything is the operator's own, down to kopf; only its command line and its lease are left out.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import kopf
from prometheus_client import CollectorRegistry

from event_loops import reset_connections
from played import from_kubeconfig
from prism_api.resources import Images
from prism_operator.cluster.client import Client
from prism_operator.cluster.connection import Connection
from prism_operator.cluster.controller import Controller, Pace, Scope
from prism_operator.cluster.errors import ClusterError
from prism_operator.cluster.herald import Herald
from prism_operator.cluster.metrics import setup_metrics
from prism_operator.operate import run_controller

IMAGES = Images(trainer="registry.example/trainer:1", rollout="registry.example/rollout:1")
PACE = Pace(poll_seconds=0.2)
END_SECONDS = 20.0


@dataclass(frozen=True)
class Write:
    """A request that changes something."""

    index: int
    """Writes of this operator before it."""
    verb: str
    path: str
    """Of the object, also of one that is created."""
    sent_at: float
    """By the monotonic clock, in seconds."""


Moment = Literal["before", "after"]
"""Before: it has not been sent. After: the API server has answered, and nobody knows."""
WriteHook = Callable[[Write, Moment], bool]
"""Asked at every write, in the operator's thread; true: the operator is dead from here on."""


class MortalClient(Client):
    """The operator's client; once it is dead, no request leaves it and no answer is heard."""

    def __init__(
        self,
        connection: Connection,
        hook: WriteHook,
        on_death: Callable[[], object],
        writes: list[Write],
    ) -> None:
        """What is to be sent is added to `writes`."""
        super().__init__(connection)
        self._hook, self._on_death, self._writes = hook, on_death, writes
        self.is_dead = False

    def die(self) -> None:
        """From the loop's thread only."""
        if not self.is_dead:
            self.is_dead = True
            self._on_death()

    async def _request(
        self, verb: str, path: str, query: Any = None, body: Any = None, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        self._stop_if_dead()
        send = super()._request(verb, path, query, body, *args, **kwargs)
        answer = await (send if verb == "GET" else self._write(verb, _path(verb, path, body), send))
        self._stop_if_dead()
        return answer

    async def _write(
        self, verb: str, path: str, send: Coroutine[Any, Any, dict[str, Any]]
    ) -> dict[str, Any]:
        write = Write(len(self._writes), verb, path, time.monotonic())
        self._writes.append(write)
        with closing(send):
            self._ask(write, "before")
            try:
                answer = await send
            except ClusterError:
                self._ask(write, "after")  # a refusal is an answer, too
                raise
            self._ask(write, "after")
            return answer

    def _ask(self, write: Write, moment: Moment) -> None:
        if not self.is_dead and self._hook(write, moment):
            self.die()
        self._stop_if_dead()

    def _stop_if_dead(self) -> None:
        # As if its task were cancelled, which nothing in the operator catches and goes on.
        if self.is_dead:
            raise asyncio.CancelledError


class RunningOperator:
    """`with RunningOperator(...) as operator:` works from the start of the block to its end.

    `start` after `kill` or `stop` is a restart: nothing is remembered.
    """

    def __init__(
        self,
        kubeconfig: Path,
        namespaces: Sequence[str],
        *,
        progress_port: int,
        pace: Pace = PACE,
        images: Images = IMAGES,
        on_write: WriteHook | None = None,
    ) -> None:
        url, credentials = from_kubeconfig(kubeconfig)
        ca = str(credentials.ca) if credentials.ca else None
        self._login = kopf.ConnectionInfo(server=url, ca_path=ca, token=credentials.token)
        self._scope, self._pace = Scope(tuple(namespaces), images, progress_port), pace
        self.on_write: WriteHook = on_write or _lives_on
        """Exchange it before a start."""
        self.metrics = setup_metrics(CollectorRegistry())
        """Of this life, or the last one."""
        self.writes: list[Write] = []
        """Of all its lives."""
        self.failure: BaseException | None = None
        """What ended it, if it ended by itself."""
        self._thread: threading.Thread | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> Self:
        """Start it; returns once its loop runs."""
        assert not self.is_alive, "it runs"
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._live, name="operator", daemon=True)
        self._thread.start()
        self._started.wait()
        return self

    def stop(self) -> None:
        """End it as SIGTERM does; no error if it has ended. Raises what it failed with."""
        self._end(self._task.cancel)
        if self.failure is not None:
            raise RuntimeError("the operator broke down") from self.failure

    def kill(self) -> None:
        """Stop it dead: no further request leaves it; one that is under way is done or not."""
        self._end(self._client.die)

    def join(self) -> None:
        """Wait until its thread has ended."""
        if self._thread is not None:
            self._thread.join(END_SECONDS)
            assert not self._thread.is_alive(), f"the operator did not end in {END_SECONDS:.0f} s"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.kill()

    def _end(self, how: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # its loop is closed: it has ended
            self._loop.call_soon_threadsafe(how)
        self.join()

    def _live(self) -> None:
        try:
            asyncio.run(self._until_ended())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.failure = error
        finally:
            self._started.set()

    async def _until_ended(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._loop, self._task = asyncio.get_running_loop(), task
        connection = Connection.of(self._login)
        client = MortalClient(connection, self.on_write, task.cancel, self.writes)
        self._client, self.metrics = client, setup_metrics(CollectorRegistry())
        controller = Controller(
            client, self._scope, self._pace, self.metrics, Herald(client, "running-operator")
        )
        self._started.set()
        try:
            pace, names = self._pace, self._scope.namespaces
            await run_controller(controller, names, pace.resync_seconds, lambda: self._login)
            raise RuntimeError("controller or kopf ended by itself")
        finally:
            await client.close()
            await reset_connections()


def _path(verb: str, path: str, body: Any) -> str:
    return f"{path}/{body['metadata']['name']}" if verb == "POST" else path


def _lives_on(write: Write, moment: Moment) -> bool:
    return False
