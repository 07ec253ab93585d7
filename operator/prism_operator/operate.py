"""One operator process: wait for the Lease, work while it is held, give it back."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import kopf
from prometheus_client import CollectorRegistry

from prism_api.resources import Images
from prism_operator.cluster.client import Client
from prism_operator.cluster.connection import Connection
from prism_operator.cluster.controller import BEAT_SECONDS, Controller, Pace, Scope
from prism_operator.cluster.health import Health, Role, health_app, serve_health
from prism_operator.cluster.herald import Herald
from prism_operator.cluster.leadership import Elector, LeaseLost, LeaseName, lead
from prism_operator.cluster.metrics import Metrics, setup_metrics
from prism_operator.cluster.resources import plural_of
from prism_operator.cluster.settings import OperatorSettings
from prism_operator.handlers import build_registry, build_settings

_log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 60.0
"""A loop that has not moved for so long is dead, whatever it says."""


async def operate(settings: OperatorSettings, connect: Callable[[], kopf.ConnectionInfo]) -> None:
    """Until SIGTERM or SIGINT. The process ends at once when another one may lead."""
    registry = CollectorRegistry()
    metrics, health = setup_metrics(registry), Health()
    elector_client = Client(Connection.of(connect()))
    lease = LeaseName(settings.pod_namespace, settings.lease_name)
    times = settings.lease_times
    beat = health.watch("leader election", 2 * times.lease_seconds)
    elector = Elector(elector_client, lease, settings.pod_name, times, beat=beat)

    async def work() -> None:
        health.role = Role.LEADER
        metrics.leader.set(1)
        try:
            await _work(settings, connect, metrics, health, elector, catch_signals)
        finally:
            health.role = Role.STOPPING
            metrics.leader.set(0)

    catch_signals = partial(stop_on_signals, asyncio.current_task())
    catch_signals()
    async with serve_health(health_app(health, registry), settings.http_port):
        health.role = Role.STANDBY
        try:
            with suppress(asyncio.CancelledError):
                await lead(elector, work)
        except LeaseLost as error:
            _log.error("%s", error)
            # Another process may lead by now: nothing of this one may be sent any more.
            os._exit(1)
        finally:
            await elector_client.close()


async def _work(
    settings: OperatorSettings,
    connect: Callable[[], kopf.ConnectionInfo],
    metrics: Metrics,
    health: Health,
    elector: Elector,
    catch_signals: Callable[[], None],
) -> None:
    def observe(verb: str, path: str, code: int, seconds: float) -> None:
        metrics.answered(verb, plural_of(path), str(code) if code else "error", seconds)

    client = Client(Connection.of(connect()), observe, may_write=lambda: elector.holds)
    beat = health.watch("reconcile loop", _PATIENCE_SECONDS + BEAT_SECONDS)
    images = Images(trainer=settings.trainer_image, rollout=settings.rollout_image)
    controller = Controller(
        client,
        Scope(settings.namespaces, images),
        Pace(settings.poll_seconds, settings.resync_seconds, settings.concurrency),
        metrics,
        Herald(client, settings.pod_name),
        beat,
    )
    try:
        await run_controller(
            controller, settings.namespaces, settings.resync_seconds, connect, catch_signals
        )
    finally:
        health.forget("reconcile loop")
        await client.close()


async def run_controller(
    controller: Controller,
    namespaces: tuple[str, ...],
    resync_seconds: float,
    connect: Callable[[], kopf.ConnectionInfo],
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """The controller and kopf, which tells it of runs, until one of the two ends or it is
    cancelled. `on_ready` is called when kopf has started, which takes signals over."""
    started = asyncio.Event()
    watching = _watch_runs(
        controller,
        ready_flag=started,
        registry=build_registry(controller, connect),
        settings=build_settings(resync_seconds=resync_seconds),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
    tasks = [asyncio.create_task(controller.run()), asyncio.create_task(watching)]
    starting = asyncio.create_task(started.wait())
    starting.add_done_callback(lambda task: None if task.cancelled() else on_ready())
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, starting):
            task.cancel()
        await asyncio.gather(*tasks, starting, return_exceptions=True)
    for task in done:
        await task


async def _watch_runs(controller: Controller, **arguments: Any) -> None:
    """kopf, once there is something to watch: it would never look again."""
    await controller.runs_are_served()
    await kopf.operator(**arguments)


def stop_on_signals(task: "asyncio.Task[None] | None") -> None:
    """SIGTERM and SIGINT cancel a task. kopf would go on for seconds and only then let the work
    end, and the next leader begin."""
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
