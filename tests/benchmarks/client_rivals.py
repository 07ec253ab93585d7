"""CPU time of this process for a request and for an event: our client, the official one, kopf."""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import kopf
from kubernetes.aio.client import ApiClient
from kubernetes.aio.config.kube_config import new_client_from_config
from kubernetes.aio.dynamic import DynamicClient
from operator_load import collection

from api_cluster import ApiCluster
from prism_api.names import API_VERSION, GROUP, KIND, PLURAL, VERSION
from prism_operator.cluster.client import Client
from prism_operator.cluster.connection import Connection, login
from prism_operator.cluster.resources import CONFIG_MAPS
from prism_operator.handlers import build_settings

Json = dict[str, Any]


@dataclass(frozen=True)
class Rivalry:
    """Median CPU time, in microseconds, by who needs it."""

    what: str
    us: Mapping[str, float]


class _Contestant(Protocol):
    """Sends the operator's kinds of requests."""

    async def get(self, name: str) -> None:
        """A PrismRun."""

    async def patch(self, name: str, patch: Json) -> None:
        """Its status, by a merge patch."""

    async def create(self, manifest: Json) -> None:
        """A ConfigMap."""

    async def apply(self, manifest: Json) -> None:
        """The same on the server's side."""

    async def delete(self, name: str) -> None:
        """It again."""


class _Ours:
    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self._namespace = client, namespace

    async def get(self, name: str) -> None:
        await self._client.get(f"{collection(self._namespace)}/{name}")

    async def patch(self, name: str, patch: Json) -> None:
        await self._client.merge_patch(f"{collection(self._namespace)}/{name}/status", patch)

    async def create(self, manifest: Json) -> None:
        made = await self._client.create(CONFIG_MAPS.path(self._namespace), manifest)
        self._uid = made["metadata"]["uid"]

    async def apply(self, manifest: Json) -> None:
        name = manifest["metadata"]["name"]
        await self._client.apply(CONFIG_MAPS.path(self._namespace, name), manifest)

    async def delete(self, name: str) -> None:
        await self._client.delete(CONFIG_MAPS.path(self._namespace, name), self._uid)


class _Official:
    def __init__(self, client: DynamicClient, runs: Any, config_maps: Any, namespace: str) -> None:
        self._client, self._runs, self._maps = client, runs, config_maps
        self._namespace = namespace

    async def get(self, name: str) -> None:
        await self._client.get(self._runs, name=name, namespace=self._namespace)

    async def patch(self, name: str, patch: Json) -> None:
        await self._client.patch(
            self._runs.status,
            patch,
            name,
            self._namespace,
            content_type="application/merge-patch+json",
        )

    async def create(self, manifest: Json) -> None:
        made = await self._client.create(self._maps, manifest, self._namespace)
        self._uid = made.metadata.uid

    async def apply(self, manifest: Json) -> None:
        await self._client.server_side_apply(
            self._maps, manifest, None, self._namespace, True, field_manager="prism-operator"
        )

    async def delete(self, name: str) -> None:
        body = {"propagationPolicy": "Background", "preconditions": {"uid": self._uid}}
        await self._client.delete(self._maps, name, self._namespace, body)


@asynccontextmanager
async def _contestants(namespace: str) -> AsyncIterator[tuple[Client, DynamicClient, Any, Any]]:
    api: ApiClient = await new_client_from_config(os.environ["KUBECONFIG"])
    client = Client(Connection.of(login()))
    try:
        official = await DynamicClient(api)
        runs = await official.resources.get(api_version=API_VERSION, kind=KIND)
        maps = await official.resources.get(api_version="v1", kind="ConfigMap")
        yield client, official, runs, maps
    finally:
        await client.close()
        await api.close()


async def compare(cluster: ApiCluster, namespace: str, rounds: int, repeats: int) -> list[Rivalry]:
    """Requests and events about the PrismRuns of a namespace, which nobody works on."""
    os.environ["KUBECONFIG"] = str(cluster.admin_kubeconfig)
    names = [run["metadata"]["name"] for run in cluster.admin.list(API_VERSION, PLURAL, namespace)]
    async with _contestants(namespace) as (client, official, runs, maps):
        rivals: dict[str, _Contestant] = {
            "ours": _Ours(client, namespace),
            "kubernetes.aio": _Official(official, runs, maps, namespace),
        }
        times: dict[str, dict[str, list[float]]] = {}
        for _ in range(repeats):
            for who, rival in rivals.items():
                for what, us in (await _requests(rival, names, rounds)).items():
                    times.setdefault(what, {}).setdefault(who, []).append(us)
        watchers: dict[str, _Watcher] = {
            "ours": lambda version: _watch_ours(client, namespace, version),
            "kubernetes.aio": lambda version: _watch_official(official, runs, namespace, version),
            "kopf": lambda version: _watch_kopf(namespace),
        }
        for _ in range(repeats):
            for who, watcher in watchers.items():
                us = await _events(cluster, namespace, watcher, len(names))
                times.setdefault("event of a PrismRun", {}).setdefault(who, []).append(us)
    return [
        Rivalry(what, {who: statistics.median(us) for who, us in by.items()})
        for what, by in times.items()
    ]


async def _requests(rival: _Contestant, names: list[str], rounds: int) -> dict[str, float]:
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "rival"},
        "data": {"stage.json": "x" * 2000},
    }
    used: dict[str, float] = {}

    async def measured(what: str, request: Awaitable[None]) -> None:
        started = time.process_time()
        await request
        used[what] = used.get(what, 0.0) + time.process_time() - started

    for number in range(rounds):
        name = names[number % len(names)]
        patch = {"status": {"message": f"{number} {time.time()}"}}
        await measured("get a PrismRun", rival.get(name))
        await measured("merge patch of a status", rival.patch(name, patch))
        await measured("create a ConfigMap", rival.create(manifest))
        changed = {**manifest, "data": {"stage.json": f"{number}"}}
        await measured("server-side apply", rival.apply(changed))
        await measured("delete", rival.delete("rival"))
    return {what: 1e6 * seconds / rounds for what, seconds in used.items()}


_Watcher = Callable[[str], AsyncGenerator[None, None]]


async def _watch_ours(client: Client, namespace: str, version: str) -> AsyncGenerator[None, None]:
    async for _ in client.watch(
        collection(namespace), "", version, seconds=60.0, idle_seconds=60.0
    ):
        yield


async def _watch_official(
    client: DynamicClient, runs: Any, namespace: str, version: str
) -> AsyncGenerator[None, None]:
    async for _ in client.watch(runs, namespace, resource_version=version):
        yield


async def _watch_kopf(namespace: str) -> AsyncGenerator[None, None]:
    registry, heard = kopf.OperatorRegistry(), asyncio.Queue[None]()

    @kopf.on.login(registry=registry)
    def credentials(**_: Any) -> kopf.ConnectionInfo:
        return login()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def changed(type: str | None, **_: Any) -> None:  # noqa: A002
        if type is not None:  # not of the first list
            heard.put_nowait(None)

    operator = kopf.operator(
        registry=registry,
        settings=build_settings(resync_seconds=300),
        standalone=True,
        namespaces=[namespace],
    )
    task = asyncio.create_task(operator)
    try:
        while True:
            await heard.get()
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _events(cluster: ApiCluster, namespace: str, watcher: _Watcher, runs: int) -> float:
    """CPU time of an event, in microseconds, while kubectl changes all runs; the first event is
    not counted, for the start of kubectl comes before it."""
    newest = cluster.admin.request("GET", collection(namespace), query={"limit": "1"})["metadata"]
    async with aclosing(watcher(newest["resourceVersion"])) as heard:
        first = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(3.0)  # connections, lists and first looks are over
        change = ("annotate", PLURAL, "--all", "--overwrite", f"changed={time.time_ns()}")
        changing = asyncio.to_thread(cluster.kubectl, *change, "-n", namespace)
        kubectl = asyncio.create_task(changing)
        await first
        started = time.process_time()
        for _ in range(runs - 1):
            await anext(heard)
        used = time.process_time() - started
        await kubectl
    return 1e6 * used / (runs - 1)
