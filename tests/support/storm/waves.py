"""Waves of runs under two operators, with faults between them and the API server."""

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api_cluster import ApiCluster
from fault_proxy import ALL, Fault, FaultProxy
from operator_rights import operator_kubeconfig
from played import Player, from_kubeconfig
from prism_api.names import API_VERSION, ATTEMPT_LABEL, PLURAL, UID_LABEL
from storm.fates import draw_plan, script
from storm.judge import described, lives_of, made_twice, ran_together, wrong_with_run
from storm.operators import Place, Replica
from storm.people import KINDS, People, Strangers
from storm.table import SEVERED, Tally
from storm_operator import LEASE

Document = dict[str, Any]

RATES = dict.fromkeys(ALL, 0.05) | {
    # Of what has fewer opportunities, more.
    Fault.LIST_STALE: 0.7,
    Fault.CONFLICT: 0.12,
    Fault.ERROR_AFTER: 0.09,
    Fault.RESET_AFTER: 0.08,
}
_TICK_SECONDS = 0.05
_LONGEST = 5
"""Times the patience that a wave may take, however much moves."""


@dataclass(frozen=True)
class Weather:
    """How bad it is."""

    seed: int = 0
    rates: dict[Fault, float] = field(default_factory=lambda: dict(RATES))
    runs_per_wave: int = 30
    pause_seconds: float = 0.1
    """Between two runs of a wave that are submitted."""
    deed_seconds: float = 0.08
    """Between two things that users do, while runs are under way."""
    restart_share: float = 0.5
    """Restarts of the API server per wave."""
    deposed_share: float = 0.05
    """Times that the leading operator is cut off or stands still, per run."""
    patience_seconds: float = 60.0
    """Without any change of a run that is not yet as it should be."""


class Storm:
    """Over one namespace, from the start of its block to the end."""

    def __init__(
        self,
        cluster: ApiCluster,
        weather: Weather,
        *,
        has_lease: bool,
        logs: Path | None = None,
    ) -> None:
        """`logs` is a folder for the operators' logs; by default they go with the cluster."""
        self._logs = logs or cluster.folder
        self._cluster, self._weather, self._has_lease = cluster, weather, has_lease
        self._chance = random.Random(f"{weather.seed}/{has_lease}")
        self.tally = Tally()
        self._namespace = cluster.new_namespace()
        self._people = People(cluster.admin, self._namespace, self._chance)
        self._strangers = Strangers(cluster.admin, self._namespace)
        self._first_stages: dict[str, str] = {}
        self._under_way: set[str] = set()
        """Names of runs that are not as they should be in the end."""
        self._replicas: list[Replica] = []
        self._proxies: list[FaultProxy] = []

    @contextlib.contextmanager
    def raging(self) -> Iterator[None]:
        """Player, proxies and operators."""
        url, credentials = from_kubeconfig(self._cluster.admin_kubeconfig)
        first_stage = self._first_stages.__getitem__
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            plays = script(first_stage)
            player = Player(url, credentials, plays, namespace=self._namespace, port=0)
            self._player = stack.enter_context(player)
            rights = operator_kubeconfig(self._cluster, self._namespace)
            for number in range(2):
                proxy = stack.enter_context(self._proxy(number))
                self._proxies.append(proxy)
                copy = proxy.kubeconfig(rights, folder / f"{number}")
                name = f"operator-{number}"
                log = self._logs / f"{self._namespace}-{name}.log"
                place = Place(copy, self._namespace, self._player.port, log)
                replica = Replica(place, name, has_lease=self._has_lease)
                self._replicas.append(stack.enter_context(replica))
            yield
            self._count()
        self._cluster.delete_namespace(self._namespace)

    def wave(self, number: int) -> None:
        """Submit runs, disturb them, wait until all is as it should be, and look closely."""
        people, weather = self._people, self._weather
        began = time.monotonic()
        self._rage(True)
        restarts = self._restarts_due()
        for index in range(weather.runs_per_wave):
            plan = draw_plan(self._chance, number, index, self._namespace)
            self._first_stages[plan.name] = plan.stages[0]
            if self._chance.random() < 0.1:
                self._strangers.squat(plan)
            people.submit(plan)
            self._under_way.add(plan.name)
            if self._chance.random() < 0.2:
                self._strangers.settle_beside(people.runs[plan.name])
            if self._chance.random() < 0.1:
                self._strangers.squat_on(people.runs[plan.name])
            self._spend(weather.pause_seconds)
            if index in restarts:
                self._restart_apiserver()
            if self._has_lease and self._chance.random() < self._weather.deposed_share:
                self._depose()
        self.tally.wrong += self._strangers.changed()
        self._strangers.leave()
        self._wait_for_all()
        self._rage(False)
        self._look_closely()
        self.tally.runs += weather.runs_per_wave
        self.tally.seconds += time.monotonic() - began

    def counted(self) -> Tally:
        """The tally so far, with what is still being counted."""
        tally = Tally()
        for proxy in self._proxies:
            tally.add_faults(proxy.counts)
        tally.done = self.tally.done + self._people.done
        return tally

    # --- a wave's parts ---

    def _spend(self, seconds: float) -> None:
        """Let time pass, in which users do things."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self._people.resume(now)
            self._tend()
            if (
                self._under_way
                and self._chance.random() < _TICK_SECONDS / self._weather.deed_seconds
            ):
                self._people.act(self._chance.choice(sorted(self._under_way)))
            time.sleep(_TICK_SECONDS)

    def _wait_for_all(self) -> None:
        began = since = time.monotonic()
        wrong: dict[str, list[str]] = {}
        before: set[str] = set()
        patience = self._weather.patience_seconds
        while time.monotonic() < min(since + patience, began + _LONGEST * patience):
            self._player.check()
            documents = self._documents()
            runs, record = self._people.runs, self._player.record
            wrong = {
                name: found
                for name, run in runs.items()
                if (found := wrong_with_run(run, documents[name], record))
            }
            self._under_way = set(wrong)  # what a hand had made look well may be among them again
            now = {documents[name]["metadata"]["resourceVersion"] for name in wrong}
            before, since = now, since if now == before else time.monotonic()
            if not wrong:
                return
            self._rescue_hanging(documents)
            # The longer it takes, the fewer things are done to the runs that are left.
            if time.monotonic() - began < patience / 4:
                self._spend(0.3)
            else:
                self._people.resume(float("inf"))
                self._tend()
                time.sleep(0.3)
        for name, found in wrong.items():
            self.tally.wrong.append("\n".join([*found, *self._story(name)]))

    def _story(self, name: str) -> list[str]:
        """What the Events of a run say, and when its pods and jobs came and went."""
        uid = self._people.runs[name].uid
        events = self._cluster.admin.list("events.k8s.io/v1", "events", self._namespace)
        own = [e for e in events if e.get("regarding", {}).get("uid") == uid and e.get("eventTime")]
        own.sort(key=lambda event: str(event["eventTime"]))
        told = [f"  {e['eventTime'][11:23]} {e['reason']}: {e['note'][:160]}" for e in own]
        lives = lives_of(self._player.record, uid)
        ends = self._cluster.deletions_in(self._namespace, name)
        return told + [f"  {line}" for line in (*lives, *ends)]

    def _rescue_hanging(self, documents: dict[str, Document]) -> None:
        for name, document in documents.items():
            if name.startswith("hangs-") and name in self._under_way:
                stages = document.get("status", {}).get("stages", {}).values()
                if any(stage.get("step") == 3 for stage in stages):
                    self._people.rescue(name)

    def _look_closely(self) -> None:
        """At what a wave has left, then delete its runs and look at what that leaves."""
        runs = self._people.runs | self._people.former
        by_uid = {run.uid: run for run in runs.values()}
        wrong = self.tally.wrong
        twins = made_twice(self._player.record, by_uid, self._strangers.uids, self._has_lease)
        wrong += twins.wrong
        self.tally.done["creations that came late and were undone"] += twins.late
        wrong += ran_together(self._player.record, by_uid)
        wrong += [f"the player had trouble: {t}" for t in self._player.record.troubles]
        self._player.record.troubles.clear()
        wrong += [f"{what} is left of a run that is over" for what in self._holding()]
        for name in list(self._people.runs):
            self._cluster.admin.delete(API_VERSION, PLURAL, name, self._namespace)
        wrong += [f"{what} is an orphan" for what in self._orphans()]
        self._people.runs.clear()
        self._people.former.clear()
        self._under_way.clear()

    def _holding(self) -> list[str]:
        """Machines that are held though all runs are over; given a moment: garbage collection is
        slow after a restart of the API server."""
        until = time.monotonic() + self._weather.patience_seconds
        while True:
            found = [
                f"{plural}/{described(thing)}"
                for plural in ("pods", "deployments", "services", "networkpolicies")
                for thing in self._cluster.admin.list(
                    KINDS[plural], plural, self._namespace, UID_LABEL
                )
                if thing.get("status", {}).get("phase") not in ("Succeeded", "Failed")
            ]
            if not found or time.monotonic() > until:
                return found
            time.sleep(0.2)

    def _orphans(self) -> list[str]:
        """Whatever the garbage collector does not collect; given a moment, and a second start: one
        that was told nothing of PrismRuns for a while, as after a restart of the API server, takes
        minutes to miss them."""
        for is_last in (False, True):
            until = time.monotonic() + self._weather.patience_seconds / 2
            while (left := self._left()) and time.monotonic() < until:
                time.sleep(0.2)
            if not left or is_last:
                break
            self._cluster.restart_controller_manager()
        return left

    def _left(self) -> list[str]:
        return [
            f"{plural}/{thing['metadata']['name']}"
            for plural, version in KINDS.items()
            for thing in self._cluster.admin.list(version, plural, self._namespace, UID_LABEL)
        ]

    def _documents(self) -> dict[str, Document]:
        found = self._cluster.admin.list(API_VERSION, PLURAL, self._namespace)
        return {run["metadata"]["name"]: run for run in found}

    # --- the weather ---

    def _proxy(self, number: int) -> FaultProxy:
        proxy = FaultProxy(
            self._cluster.url,
            self._cluster.certificate_authority,
            seed=self._weather.seed * 10 + number,
            busy=lambda: bool(self._under_way),
            delay_s=0.3,
        )
        # Before an attempt is given up for what does not show, its children are listed to be
        # certain; such a list is read from the store, and no API server has an older one.
        proxy.may_be_stale = lambda path: ATTEMPT_LABEL.rpartition("/")[2] not in path
        return proxy

    def _rage(self, is_raging: bool) -> None:
        for proxy in self._proxies:
            proxy.rates = self._weather.rates if is_raging else {}

    def _restarts_due(self) -> set[int]:
        share, count = self._weather.restart_share, self._weather.runs_per_wave
        number = int(share) + (self._chance.random() < share % 1)
        return set(self._chance.sample(range(count), min(count, number)))

    def _restart_apiserver(self) -> None:
        done = self.tally.done
        done["API server restarts"] += 1
        done[SEVERED] += sum(proxy.connections for proxy in self._proxies)
        # A garbage collector that finds kinds unserved forgets their owners, and never hears that
        # they were deleted; a controller manager with a Lease of its own would have ended, too.
        with self._cluster.controllers_away():
            self._cluster.restart_apiserver()
            # It is ready before it serves custom resources.
            groups = ("prism.dev/v1alpha1", "kubeflow.org/v1")
            self._until(lambda: all(map(self._serves, groups)), 60.0)

    def _serves(self, api_version: str) -> bool:
        plural = {"prism.dev/v1alpha1": PLURAL}.get(api_version, "pytorchjobs")
        return self._cluster.admin.answers(f"/apis/{api_version}/{plural}")

    def _depose(self) -> None:
        """Cut the leading operator off, or let it stand still, until another one leads."""
        leader = self._leader()
        for replica, proxy in zip(self._replicas, self._proxies, strict=True):
            if not leader.startswith(f"{replica.name}-"):
                continue
            if self._chance.random() < 0.5:
                self.tally.done["leaders cut off"] += 1
                proxy.sever()
                self._until(lambda: self._leader() != leader, 10.0)
                proxy.revive()
            elif replica.pause():
                self.tally.done["leaders that stood still"] += 1
                self._until(lambda: self._leader() != leader, 10.0)
                replica.resume()

    def _leader(self) -> str:
        where = ("coordination.k8s.io/v1", "leases", LEASE, self._namespace)
        lease = self._cluster.admin.find(*where)
        return str(lease["spec"].get("holderIdentity", "")) if lease else ""

    def _tend(self) -> None:
        for replica in self._replicas:
            replica.tend()

    def _until(self, is_so: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not is_so() and time.monotonic() < until:
            self._tend()
            time.sleep(0.05)

    def _count(self) -> None:
        for proxy in self._proxies:
            self.tally.add_faults(proxy.counts)
            self.tally.done["requests refused while the API server was away"] += proxy.refused
        for replica in self._replicas:
            self.tally.done[f"operators started ({self._mode})"] += replica.lives
        if self._has_lease:
            where = ("coordination.k8s.io/v1", "leases", LEASE, self._namespace)
            lease = self._cluster.admin.get(*where)
            self.tally.done["changes of the leader"] += lease["spec"].get("leaseTransitions", 0)
        self.tally.done.update(self._people.done)
        self.tally.done["strangers beside them"] += len(self._strangers.uids)

    @property
    def _mode(self) -> str:
        return "one Lease" if self._has_lease else "no Lease, both at work"
