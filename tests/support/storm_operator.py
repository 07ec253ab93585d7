"""An operator as a process: `python storm_operator.py --kubeconfig F --namespace N ...`.

Everything is the operator's own but its settings; it ends when its Lease is lost, as in a pod.
"""

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import kopf
from prometheus_client import CollectorRegistry

from played import from_kubeconfig
from prism_api.resources import Images
from prism_operator.cluster.client import Client
from prism_operator.cluster.connection import Connection
from prism_operator.cluster.controller import Controller, Pace, Scope
from prism_operator.cluster.herald import Herald
from prism_operator.cluster.leadership import Elector, LeaseLost, LeaseName, lead
from prism_operator.cluster.lease import LeaseTimes
from prism_operator.cluster.metrics import setup_metrics
from prism_operator.operate import run_controller

LEASE = "prism-operator"
_IMAGES = Images(trainer="registry.example/trainer:1", rollout="registry.example/rollout:1")
_PACE = Pace(poll_seconds=0.5, resync_seconds=3.0, workers=8)
_TIMES = LeaseTimes(lease_seconds=6.0, renew_deadline_seconds=4.0, renew_seconds=0.7)


def main() -> None:
    """Work, at once or under the Lease, until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--identity", required=True)
    parser.add_argument("--progress-port", type=int, required=True)
    parser.add_argument("--lease", action="store_true")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("kopf").setLevel(logging.ERROR)
    try:
        asyncio.run(_live(asked))
    except LeaseLost as error:
        _die(error)


async def _live(asked: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    url, credentials = from_kubeconfig(asked.kubeconfig)
    login = kopf.ConnectionInfo(server=url, token=credentials.token)
    if not asked.lease:
        await _work(asked, login, lambda: True)
        return
    client = Client(Connection.of(login))
    elector = Elector(client, LeaseName(asked.namespace, LEASE), asked.identity, _TIMES)
    try:
        await lead(elector, lambda: _work(asked, login, lambda: elector.holds))
    except LeaseLost as error:
        _die(error)


async def _work(
    asked: argparse.Namespace, login: kopf.ConnectionInfo, may_write: Callable[[], bool]
) -> None:
    client = Client(Connection.of(login), may_write=may_write)
    scope = Scope((asked.namespace,), _IMAGES, asked.progress_port)
    herald, metrics = Herald(client, asked.identity), setup_metrics(CollectorRegistry())
    controller = Controller(client, scope, _PACE, metrics, herald)
    try:
        await run_controller(controller, scope.namespaces, _PACE.resync_seconds, lambda: login)
    finally:
        await client.close()


def _die(error: LeaseLost) -> None:
    """At once: another one may lead by now."""
    logging.getLogger(__name__).error("%s", error)
    os._exit(1)


if __name__ == "__main__":
    main()
