"""What `make bench-operator` runs and watches: operator, player, and the stream of runs."""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
import psutil
from prometheus_client.parser import text_string_to_metric_families

from api_cluster import ApiCluster
from cluster_processes import ClusterProcess
from operator_rights import operator_kubeconfig
from played.api import Api
from prism_api.names import API_VERSION, GROUP, KIND, PLURAL, VERSION
from prism_operator.local.servers import port_of, reserved_port

Json = dict[str, Any]

_PATIENCE_S = 60.0
"""Without any event of any run."""
STAGES = ("sft", "align", "rlvr")
_BASE_PATH = f"/apis/{GROUP}/{VERSION}/namespaces"
_SPEC: Json = {
    "model": {"uri": "hf://org/model"},
    "storage": {"uri": "s3://bucket/runs"},
    "rollout": {"backend": "vllm"},
    "stages": {
        "sft": {"data": [{"uri": "s3://bucket/sft.parquet"}]},
        "align": {"data": {"uri": "s3://bucket/align.parquet"}, "steps": 10},
        "rlvr": {"data": {"uri": "s3://bucket/rlvr.parquet"}, "steps": 10},
    },
}
"""Three stages, two of them with rollout servers; one trainer pod and one server each."""


def collection(namespace: str) -> str:
    """Path of a namespace's PrismRuns."""
    return f"{_BASE_PATH}/{namespace}/{PLURAL}"


@dataclass(frozen=True)
class Reading:
    """What an operator has used since it began; differences of two are what something cost."""

    cpu_s: float
    events: Counter[str]
    """By resource."""
    requests: Counter[str]
    """By verb and resource."""
    reconciles: int

    def __sub__(self, other: "Reading") -> "Reading":
        return Reading(
            self.cpu_s - other.cpu_s,
            self.events - other.events,
            self.requests - other.requests,
            self.reconciles - other.reconciles,
        )


class Operator:
    """`python -m prism_operator` with the rights of its chart, in a namespace of its own."""

    def __init__(self, cluster: ApiCluster, namespace: str) -> None:
        self._port = reserved_port()
        kubeconfig = operator_kubeconfig(cluster, namespace)
        settings = {
            "KUBECONFIG": str(kubeconfig),
            "POD_NAME": "prism-operator-0",
            "POD_NAMESPACE": namespace,
            "PRISM_NAMESPACES": namespace,
            "PRISM_TRAINER_IMAGE": "registry.example/trainer:1",
            "PRISM_ROLLOUT_IMAGE": "registry.example/rollout:1",
            "PRISM_HTTP_PORT": str(port_of(self._port)),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }
        variables = [f"{name}={value}" for name, value in settings.items()]
        self._command = ["env", "-i", *variables, sys.executable, "-m", "prism_operator"]
        self._log = cluster.folder / f"operator-{namespace}.log"
        self.start()

    def start(self) -> None:
        """A new process."""
        self._process = ClusterProcess(self._command, self._log)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def check(self) -> None:
        """Raise RuntimeError with the end of its log if it has ended."""
        self._process.check()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def ready(self) -> None:
        """Return when it leads."""
        for _ in range(600):
            self._process.check()
            if "prism_leader 1.0" in await self._page():
                return
            await asyncio.sleep(0.1)
        raise RuntimeError(f"the operator does not lead; {self._process.last_lines()}")

    async def read(self) -> Reading:
        """What it has used so far."""
        times = psutil.Process(self.pid).cpu_times()
        page = await self._page()
        events = _tally(page, "prism_watch_events", "total", "resource")
        requests = _tally(page, "prism_api_requests", "total", "verb", "resource")
        reconciles = _tally(page, "prism_reconcile_duration_seconds", "count").total()
        return Reading(times.user + times.system, events, requests, reconciles)

    @property
    def peak_mb(self) -> float:
        """Most memory that was resident, in 10^6 bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6

    async def _page(self) -> str:
        url = f"http://127.0.0.1:{port_of(self._port)}/metrics"
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return await answer.text()
        except aiohttp.ClientError:
            return ""


def _tally(page: str, name: str, suffix: str, *labels: str) -> Counter[str]:
    families = {family.name: family for family in text_string_to_metric_families(page)}
    counts: Counter[str] = Counter()
    for sample in families[name].samples if name in families else ():
        if sample.name == f"{name}_{suffix}":
            counts[" ".join(sample.labels[label] for label in labels)] += int(sample.value)
    return counts


class PlayerProcess:
    """`python -m played`, and what it has written down of a pod's ends and beginnings."""

    def __init__(self, cluster: ApiCluster, namespace: str, port: int, run_s: float) -> None:
        self._file = cluster.folder / f"played-{namespace}-{time.time_ns()}.jsonl"
        command = [sys.executable, "-m", "played", f"--kubeconfig={cluster.admin_kubeconfig}"]
        options = [f"--namespace={namespace}", f"--port={port}", f"--run-s={run_s}"]
        log = cluster.folder / f"player-{namespace}.log"
        self._process = ClusterProcess([*command, *options, f"--record={self._file}"], log)

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def changes(self) -> dict[tuple[str, str], float]:
        """Unix seconds at which it told that a trainer's rank 0 runs, or has ended, by the pod's
        name and which of both."""
        self._process.check()
        if not self._file.exists():
            return {}
        lines = self._file.read_bytes().split(b"\n")[:-1]
        sent = (line for line in map(orjson.loads, lines) if line["event"] == "sent")
        return {
            (change["name"], change["what"]): change["sent_at"]
            for change in sent
            if change["kind"] == "Pod"
            and change["name"].endswith("-worker-0")
            and change["what"] in ("running", "ended")
        }


@dataclass
class RunStream:
    """What a watch of PrismRuns shows, and when; a stage of a run is keyed by the name of its
    rank 0."""

    api: Api
    namespace: str
    shown_at: dict[tuple[str, str], float] = field(default_factory=dict)
    """Unix seconds at which a status first said what follows from a change of the player's."""
    states: dict[str, str] = field(default_factory=dict)
    """Newest state by the run's name."""

    async def __aenter__(self) -> Self:
        self._events = 0
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, what: str, names: Sequence[str], operator: Operator) -> None:
        """Return when all these runs are in a state, or show that a rank 0 of their first stage is
        `running`, or has `ended`; raises RuntimeError if nothing happens any more."""
        seen, since = -1, time.monotonic()
        while missing := [name for name in names if not self._has(name, what)]:
            operator.check()
            if self._task.done():
                self._task.result()
            if self._events != seen:
                seen, since = self._events, time.monotonic()
            if time.monotonic() > since + _PATIENCE_S:
                raise RuntimeError(f"{len(missing)} of {len(names)} runs do not get to {what}")
            await asyncio.sleep(0.2)

    def _has(self, name: str, what: str) -> bool:
        return self.states.get(name) == what or (f"{name}-sft-a1-worker-0", what) in self.shown_at

    async def _follow(self) -> None:
        while True:
            async for event in self.api.watch(collection(self.namespace)):
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._take(event["object"], time.time())

    def _take(self, run: Mapping[str, Any], now: float) -> None:
        self._events += 1
        name, status = run["metadata"]["name"], run.get("status") or {}
        self.states[name] = status.get("state", "")
        for stage, shown in status.get("stages", {}).items():
            pod = f"{name}-{stage}-a1-worker-0"
            if shown.get("attempt", {}).get("trainerStartedAt"):
                self.shown_at.setdefault((pod, "running"), now)
            if shown.get("result"):
                self.shown_at.setdefault((pod, "ended"), now)


async def create_runs(api: Api, namespace: str, names: Iterable[str], per_second: float) -> None:
    """PrismRuns at a steady rate; infinite: as fast as the API server takes them."""
    started = time.monotonic()
    for index, name in enumerate(names):
        await asyncio.sleep(max(0.0, started + index / per_second - time.monotonic()))
        document = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, "namespace": namespace},
            "spec": _SPEC,
        }
        await api.post(collection(namespace), document)
