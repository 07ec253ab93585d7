"""The operator under load: a real API server, real processes, everything on two cores.

Prints what a run and an event cost the operator, how many runs per second the two cores take, how
late a status is at half that rate, and how long a restart takes; fails where a limit is broken.
"""

import argparse
import asyncio
import json
import math
import os
import socket
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client_rivals import Rivalry, compare
from operator_load import STAGES, Operator, PlayerProcess, Reading, RunStream, create_runs
from rich.console import Console
from rich.table import Table

from api_cluster import ApiCluster
from played.api import Api, from_kubeconfig
from prism_api.reporting import TRAINER_PORT

CRD_FILE = Path(__file__).parents[2] / "crds" / "prismruns.prism.dev.yaml"

_CORES = 2
_RUN_S = 1.0
"""Of a stage's training: as short as it may be, for it costs the operator nothing."""
_WHOLE_BENCH_S = 86_400.0
_CONSOLE = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


@dataclass(frozen=True)
class Limit:
    """A figure that the operator is held to."""

    what: str
    value: float
    limit: float
    unit: str

    @property
    def is_kept(self) -> bool:
        """Whether the value is at most the limit; one that is missing is not."""
        return self.value <= self.limit


@dataclass(frozen=True)
class Load:
    """Runs that were taken from their creation to their end."""

    namespace: str
    runs: int
    seconds: float
    used: Reading
    peak_mb: float
    lateness_s: list[float] = field(default_factory=list)
    """From each change of a rank 0 (it runs, it has ended) to the status that says so."""

    @property
    def cpu_ms_per_run(self) -> float:
        """Of the operator."""
        return 1000 * self.used.cpu_s / self.runs

    @property
    def cpu_ms_per_event(self) -> float:
        """Of the operator, for all that follows from an event."""
        return 1000 * self.used.cpu_s / self.used.events.total()

    @property
    def runs_per_s(self) -> float:
        """Completed."""
        return self.runs / self.seconds

    def percentile(self, share: float) -> float:
        """Of the lateness; the value that this share of all does not exceed."""
        ordered = sorted(self.lateness_s)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


@dataclass(frozen=True)
class InFlight:
    """Runs that all train, with new progress at every poll."""

    runs: int
    seconds: float
    """Of training that were measured."""
    used: Reading
    """By the operator, in that time."""
    restart_s: float
    """From its start until all statuses say what happened while it was away."""
    peak_mb: float
    """After the restart."""


class Bench:
    """One cluster; each load has a namespace and processes of its own."""

    def __init__(self, cluster: ApiCluster, api: Api) -> None:
        self._cluster, self._api = cluster, api
        self._port = _progress_port()

    async def load(self, runs: int, per_second: float = math.inf) -> Load:
        """Create runs at a rate and wait until all have succeeded."""
        namespace = self._cluster.new_namespace()
        operator = Operator(self._cluster, namespace)
        player = PlayerProcess(self._cluster, namespace, self._port, _RUN_S)
        try:
            async with RunStream(self._api, namespace) as stream:
                await operator.ready()
                before, started = await operator.read(), time.monotonic()
                names = [f"run-{index}" for index in range(runs)]
                await create_runs(self._api, namespace, names, per_second)
                await stream.until("Succeeded", names, operator)
                seconds = time.monotonic() - started
                used = await operator.read() - before
            lateness = [
                stream.shown_at[change] - at
                for change, at in player.changes().items()
                if change in stream.shown_at
            ]
            if len(lateness) < 2 * len(STAGES) * runs:
                raise RuntimeError("not every change of a rank 0 was followed by a status")
            return Load(namespace, runs, seconds, used, operator.peak_mb, lateness)
        finally:
            player.kill()
            operator.kill()

    async def in_flight(self, runs: int, seconds: float) -> InFlight:
        """Every run trains for a while; the operator is killed; every rank 0 ends; the operator
        starts."""
        namespace = self._cluster.new_namespace()
        operator = Operator(self._cluster, namespace)
        player = PlayerProcess(self._cluster, namespace, self._port, _WHOLE_BENCH_S)
        try:
            async with RunStream(self._api, namespace) as stream:
                await operator.ready()
                names = [f"run-{index}" for index in range(runs)]
                await create_runs(self._api, namespace, names, math.inf)
                await stream.until("running", names, operator)
                before = await operator.read()
                await asyncio.sleep(seconds)
                used = await operator.read() - before
                operator.kill()
                player.kill()
                player = PlayerProcess(self._cluster, namespace, self._port, 0.1)
                while sum(what == "ended" for _, what in player.changes()) < runs:
                    await asyncio.sleep(0.2)
                started = time.monotonic()
                operator.start()
                await stream.until("ended", names, operator)
                return InFlight(runs, seconds, used, time.monotonic() - started, operator.peak_mb)
        finally:
            player.kill()
            operator.kill()


def _progress_port() -> int:
    """Where operators ask for progress, unless somebody else has that port: then nobody answers."""
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", TRAINER_PORT))
        except OSError:
            _CONSOLE.print(f"port {TRAINER_PORT} is taken: no run will be asked for its progress")
            return 0
    return TRAINER_PORT


async def measure(arguments: argparse.Namespace) -> int:
    """All loads; returns the exit code."""
    with ApiCluster(crds=[CRD_FILE]) as cluster:
        url, credentials = from_kubeconfig(cluster.admin_kubeconfig)
        async with Api(url, credentials) as api:
            bench = Bench(cluster, api)
            few = await bench.load(arguments.few)
            _describe(f"{few.runs} runs at once", few)
            rivals = await compare(cluster, few.namespace, arguments.rounds, arguments.repeats)
            _show_rivals(rivals)
            many = await bench.load(arguments.runs)
            _describe(f"{many.runs} runs at once", many)
            rate = many.runs_per_s / 2
            steady = await bench.load(max(10, round(rate * arguments.steady_s)), rate)
            _describe(f"half the highest rate: {rate:.2f} runs/s", steady)
            flight = await bench.in_flight(arguments.runs, arguments.training_s)
            _describe_flight(flight)
    limits = _limits(arguments, few, many, steady, flight, rivals)
    _show(limits)
    if arguments.json:
        loads = {"few": few, "many": many, "steady": steady}
        document = {
            "loads": {name: _as_document(load) for name, load in loads.items()},
            "flight": {**asdict(flight), "used": vars(flight.used)},
            "limits": [asdict(limit) for limit in limits],
            "rivals": [asdict(rival) for rival in rivals],
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if all(limit.is_kept for limit in limits) else 1


def _as_document(load: Load) -> dict[str, object]:
    return {
        **{"runs": load.runs, "seconds": load.seconds, "peak_mb": load.peak_mb},
        **{"cpu_s": load.used.cpu_s, "events": load.used.events, "requests": load.used.requests},
        **{"reconciles": load.used.reconciles, "lateness_s": load.lateness_s},
    }


def _limits(
    arguments: argparse.Namespace,
    few: Load,
    many: Load,
    steady: Load,
    flight: InFlight,
    rivals: list[Rivalry],
) -> list[Limit]:
    """What the operator is held to; a smoke test has too few runs for ratios and percentiles."""
    ours, official = (sum(r.us[who] for r in rivals) for who in ("ours", "kubernetes.aio"))
    always = [
        Limit(f"CPU time of a run, of {many.runs} at once", many.cpu_ms_per_run, 250, "ms"),
        Limit("CPU time of a run at half the highest rate", steady.cpu_ms_per_run, 250, "ms"),
        Limit("peak memory under load", max(few.peak_mb, many.peak_mb), 300, "MB"),
        Limit("peak memory after a restart", flight.peak_mb, 300, "MB"),
        Limit(f"restart with {arguments.runs} runs in flight", flight.restart_s, 30, "s"),
        Limit("our client's CPU time, of kubernetes.aio's", ours / official, 1, "times"),
    ]
    flat = many.cpu_ms_per_event / few.cpu_ms_per_event
    measured = [
        Limit("child event to status at that rate, p99", steady.percentile(0.99), 2, "s"),
        Limit(f"CPU time of an event, {many.runs} against {few.runs} runs", flat, 1.25, "times"),
    ]
    return always if arguments.smoke else [*always, *measured]


def _describe(title: str, load: Load) -> None:
    events, requests = load.used.events, load.used.requests
    _CONSOLE.print(
        f"[bold]{title}[/]: {load.runs} complete in {load.seconds:.0f} s"
        f" ({load.runs_per_s:.2f} runs/s, {events.total() / load.seconds:.0f} events/s);"
        f" CPU {load.cpu_ms_per_run:.0f} ms a run, {load.cpu_ms_per_event:.2f} ms an event;"
        f" peak {load.peak_mb:.0f} MB; child event to status p50 {load.percentile(0.5):.2f} s,"
        f" p99 {load.percentile(0.99):.2f} s, mean {statistics.fmean(load.lateness_s):.2f} s"
    )
    _CONSOLE.print(f"  reconciles per run: {load.used.reconciles / load.runs:.1f}")
    for name, counts in (("events", events), ("requests", requests)):
        _CONSOLE.print(f"  {name} per run: {_per_run(counts, load.runs)}")


def _describe_flight(flight: InFlight) -> None:
    share = 100 * flight.used.cpu_s / flight.seconds
    rates = [count.total() / flight.seconds for count in (flight.used.events, flight.used.requests)]
    _CONSOLE.print(
        f"[bold]{flight.runs} runs that train[/], for {flight.seconds:.0f} s: {share:.0f} % of a"
        f" core, {rates[0]:.0f} events/s, {rates[1]:.0f} requests/s"
    )


def _per_run(counts: Counter[str], runs: int) -> str:
    parts = [f"{what} {count / runs:.1f}" for what, count in counts.most_common() if count > 0]
    return f"{counts.total() / runs:.1f} ({', '.join(parts)})"


def _show_rivals(rivals: list[Rivalry]) -> None:
    names = list(dict.fromkeys(name for rival in rivals for name in rival.us))
    table = Table("CPU time of the client, us", *names)
    for rival in rivals:
        table.add_row(rival.what, *(f"{rival.us[n]:.0f}" if n in rival.us else "" for n in names))
    _CONSOLE.print(table)


def _show(limits: list[Limit]) -> None:
    table = Table("limit", "measured", "at most", "", title="The operator is held to")
    for limit in limits:
        kept = "kept" if limit.is_kept else "[red]BROKEN[/]"
        value, most = (f"{x:.3g} {limit.unit}" for x in (limit.value, limit.limit))
        table.add_row(limit.what, value, most, kept)
    _CONSOLE.print(table)


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make bench-operator", description=__doc__)
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument("--few", default=100, **number, help="runs at once, first (100)")
    parser.add_argument("--runs", default=1000, **number, help="runs at once, then (1000)")
    parser.add_argument(
        "--steady-s", default=120, **number, help="seconds at half the highest rate (120)"
    )
    parser.add_argument(
        "--training-s", default=60, **number, help="seconds in which all of them train (60)"
    )
    parser.add_argument(
        "--rounds", default=200, **number, help="of each request, to compare clients (200)"
    )
    parser.add_argument("--repeats", default=3, **number, help="of that, the median counts (3)")
    parser.add_argument("--smoke", action="store_true", help="a minute's version of it, for CI")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.few, arguments.runs, arguments.steady_s = 5, 20, 8
        arguments.rounds, arguments.repeats, arguments.training_s = 10, 1, 20
    cores = sorted(os.sched_getaffinity(0))[:_CORES]
    os.sched_setaffinity(0, cores)
    return asyncio.run(measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
