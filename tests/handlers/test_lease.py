"""Electors against one Lease, in virtual time: one leads, and when it goes, the next one does."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lease_store import LeaseStore
from prism_operator.cluster.errors import ClusterError, Forbidden, Throttled, Unavailable
from prism_operator.cluster.leadership import Elector, LeaseLost, LeaseName, lead
from prism_operator.cluster.lease import (
    Acquire,
    LeaseTimes,
    Lost,
    Renew,
    Sighting,
    Tenure,
    Wait,
    acquired,
    decide_lease,
    released,
    sight,
)
from virtual_time import run_virtually

NAME = LeaseName("prism-system", "prism-operator")
TIMES = LeaseTimes()
TODAY = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def a_lease(holder: str = "a", term: int = 3, version: str = "7", **spec: Any) -> dict[str, Any]:
    """A Lease as the API server shows it."""
    metadata = {"name": NAME.name, "namespace": NAME.namespace, "resourceVersion": version}
    spec = {"holderIdentity": holder, "leaseTransitions": term, "leaseDurationSeconds": 15} | spec
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"} | {
        "metadata": metadata,
        "spec": spec,
    }


# --- decisions ---


@pytest.mark.parametrize(
    ("lease", "since", "now", "decision"),
    [
        (a_lease("b"), 100.0, 100.0, Wait(2.0)),
        (a_lease("b"), 100.0, 114.5, Wait(0.5)),
        (a_lease("b"), 100.0, 115.0, Acquire()),
        (a_lease("b", leaseDurationSeconds=40), 100.0, 120.0, Wait(2.0)),
        (a_lease("b", leaseDurationSeconds=40), 100.0, 140.0, Acquire()),
        (a_lease(""), 100.0, 100.0, Acquire()),
        (a_lease("a"), 100.0, 100.0, Acquire()),
        ({"metadata": {"resourceVersion": "7"}}, 100.0, 100.0, Acquire()),
        (None, 100.0, 100.0, Wait(2.0)),
        (None, 100.0, 115.0, Acquire()),
    ],
)
def test_a_candidate_waits_for_as_long_as_the_holder_was_promised(
    lease: dict[str, Any] | None, since: float, now: float, decision: object
) -> None:
    assert decide_lease(Sighting(lease, since), None, "a", now, TIMES) == decision


@pytest.mark.parametrize(
    ("lease", "now", "decision"),
    [
        (a_lease("a"), 101.5, Wait(0.5)),
        (a_lease("a"), 102.0, Renew()),
        (a_lease("a"), 109.9, Renew()),
        (a_lease("a"), 110.0, Lost("it could not be renewed for 10 s")),
        (a_lease("b"), 101.0, Lost("b has it, who wrote it since")),
        (a_lease("a", term=4), 101.0, Lost("a has it, who wrote it since")),
        (a_lease(""), 101.0, Lost("nobody has it, who wrote it since")),
        (None, 101.0, Lost("somebody deleted it")),
    ],
)
def test_a_holder_renews_until_it_must_stop(
    lease: dict[str, Any] | None, now: float, decision: object
) -> None:
    assert decide_lease(Sighting(lease, 0.0), Tenure(3, 100.0), "a", now, TIMES) == decision


def test_no_other_machine_s_clock_is_read() -> None:
    for year in ("1970", "2100"):
        stamp = f"{year}-01-01T00:00:00.000000Z"
        lease = a_lease("b", renewTime=stamp, acquireTime=stamp)
        assert decide_lease(sight(None, lease, 5.0), None, "a", 6.0, TIMES) == Wait(2.0)


def test_a_lease_has_been_so_since_it_was_first_seen_so() -> None:
    first = sight(None, a_lease(version="7"), 1.0)
    assert sight(first, a_lease(version="7"), 5.0).since == 1.0
    assert sight(first, a_lease(version="8"), 5.0).since == 5.0
    assert sight(first, None, 5.0).since == 5.0


def test_a_lease_that_never_was_there_is_free() -> None:
    assert decide_lease(sight(None, None, 5.0), None, "a", 5.0, TIMES) == Acquire()


def test_what_is_written_is_fenced_and_keeps_what_others_wrote() -> None:
    lease = a_lease("b", term=3)
    lease["metadata"]["labels"] = {"team": "x"}
    mine = acquired(lease, {}, "a", TODAY, TIMES)
    assert mine["metadata"] == lease["metadata"]
    assert mine["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-02T03:04:05.678901Z",
        "renewTime": "2026-01-02T03:04:05.678901Z",
        "leaseTransitions": 4,
    }
    assert "holderIdentity" not in released(mine)["spec"]
    assert lease == a_lease("b", term=3) | {"metadata": lease["metadata"]}


# --- electors ---


Act = Callable[[], dict[str, Any]]
Fate = Literal["answered", "lost", "unheard", "throttled", "forbidden"]


@dataclass(frozen=True)
class Delivery:
    """What happens to a request, and how long it takes there and back."""

    fate: Fate = "answered"
    there: float = 0.01
    back: float = 0.01


@dataclass
class Api:
    """The API server behind a network that does to each request what the script says."""

    store: LeaseStore = field(default_factory=LeaseStore)
    script: list[Delivery] = field(default_factory=list)
    requests: list[tuple[float, str, str]] = field(default_factory=list)
    cut_off: set[str] = field(default_factory=set)
    """Of these, nothing is heard any more."""


@dataclass(frozen=True)
class Line:
    """The API as one process reaches it."""

    api: Api
    name: str

    async def get(self, path: str) -> dict[str, Any]:
        """As LeaseApi."""
        assert path == NAME.path
        return await self._deliver("get", self.api.store.read)

    async def create(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """As LeaseApi."""
        assert path == NAME.collection
        return await self._deliver("create", lambda: self.api.store.create(manifest))

    async def replace(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """As LeaseApi."""
        assert path == NAME.path
        return await self._deliver("replace", lambda: self.api.store.replace(document))

    async def _deliver(self, verb: str, act: Act) -> dict[str, Any]:
        if self.name in self.api.cut_off:
            await asyncio.sleep(1e6)
        self.api.requests.append((now(), self.name, verb))
        delivery = self.api.script.pop(0) if self.api.script else Delivery()
        if delivery.fate == "throttled":
            raise Throttled(verb, 429, "too many requests", 3.0)
        if delivery.fate == "forbidden":
            raise Forbidden(verb, 403, "forbidden")
        if delivery.fate == "unheard":
            await asyncio.sleep(delivery.there)
            raise Unavailable(verb, 0, "connection reset")
        # Whoever waits no longer does not stop what is under way.
        answer = await asyncio.shield(asyncio.ensure_future(_land(delivery.there, act)))
        await asyncio.sleep(delivery.back)
        if delivery.fate == "lost":
            raise Unavailable(verb, 0, "connection reset")
        if isinstance(answer, ClusterError):
            raise answer
        return answer


async def _land(seconds: float, act: Act) -> dict[str, Any] | ClusterError:
    await asyncio.sleep(seconds)
    try:
        return act()
    except ClusterError as error:
        return error


def now() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


@dataclass
class Reign:
    """When somebody acted."""

    by: str
    begin: float
    end: float


class Replicas:
    """Processes that all want to lead; one that lost the Lease is started anew by its kubelet."""

    def __init__(self, api: Api, names: str) -> None:
        self.api = api
        self.reigns: list[Reign] = []
        self.beats: dict[str, list[float]] = {name: [] for name in names}
        self._tasks = {name: asyncio.create_task(self._live(name)) for name in names}

    async def _live(self, name: str) -> None:
        beats = self.beats[name]
        while True:
            elector = Elector(
                Line(self.api, name), NAME, name, beat=lambda: beats.append(now()), clock=now
            )
            with suppress(LeaseLost):
                await lead(elector, partial(self._reign, name, elector))
            await asyncio.sleep(1.0)

    async def _reign(self, name: str, elector: Elector) -> None:
        self.reigns.append(reign := Reign(name, now(), now()))
        while elector.holds:
            reign.end = now()
            await asyncio.sleep(0.1)
        await asyncio.sleep(1e6)

    @property
    def leader(self) -> str | None:
        """Who acts now."""
        acting = {reign.by for reign in self.reigns if reign.end > now() - 0.15}
        assert len(acting) <= 1
        return next(iter(acting), None)

    def crash(self, name: str) -> None:
        """Its process is gone and nothing was said to anybody."""
        self.api.cut_off.add(name)
        self._tasks[name].cancel()

    async def stop(self, *names: str) -> None:
        """Ask them to end (SIGTERM), and wait until they have."""
        for name in names:
            self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name] for name in names])


@asynccontextmanager
async def replicas_of(api: Api, names: str = "ab") -> AsyncIterator[Replicas]:
    """They live for as long as the block runs."""
    replicas = Replicas(api, names)
    try:
        yield replicas
    finally:
        await replicas.stop(*names)


DELIVERIES = st.builds(
    Delivery,
    st.sampled_from(get_args(Fate)),
    there=st.sampled_from([0.0, 0.01, 1.0, 4.0, 6.0, 12.0, 30.0]),
    back=st.sampled_from([0.0, 0.01, 1.0, 4.9]),
)


@settings(max_examples=60)
@given(st.lists(DELIVERIES, max_size=40), st.sampled_from(["a", "ab", "abc"]))
def test_whatever_becomes_of_requests_one_leads_at_a_time_and_somebody_in_the_end(
    script: list[Delivery], names: str
) -> None:
    async def main() -> None:
        api = Api(script=list(script))
        async with replicas_of(api, names) as replicas:
            while api.script:
                await asyncio.sleep(1.0)
            await asyncio.sleep(60.0)  # a write may still be on its way for 30 s
            assert replicas.leader is not None
            begun = sorted(replicas.reigns, key=lambda reign: reign.begin)
            for one, next_one in pairwise(begun):
                assert one.end <= next_one.begin

    run_virtually(main())


def test_a_crashed_leader_is_followed_within_half_a_minute() -> None:
    async def main() -> float:
        async with replicas_of(Api()) as replicas:
            await asyncio.sleep(60.0)
            first, crashed_at = replicas.leader, now()
            assert first is not None
            replicas.crash(first)
            while replicas.leader in (first, None):
                await asyncio.sleep(0.1)
            return now() - crashed_at

    assert 10.0 < run_virtually(main()) < 20.0


def test_a_leader_that_ends_by_itself_is_followed_at_the_next_look() -> None:
    async def main() -> float:
        async with replicas_of(Api()) as replicas:
            await asyncio.sleep(60.0)
            first, stopped_at = replicas.leader, now()
            assert first is not None
            await replicas.stop(first)
            while replicas.leader in (first, None):
                await asyncio.sleep(0.1)
            return now() - stopped_at

    assert run_virtually(main()) < TIMES.renew_seconds + 0.3


def test_a_leader_cut_off_stops_before_another_begins() -> None:
    async def main() -> tuple[Reign, Reign, float]:
        async with replicas_of(Api()) as replicas:
            await asyncio.sleep(60.0)
            first, cut_at = replicas.leader, now()
            assert first is not None
            replicas.api.cut_off.add(first)
            await asyncio.sleep(60.0)
            one, other = replicas.reigns
            return one, other, cut_at

    one, other, cut_at = run_virtually(main())
    assert one.by != other.by
    assert cut_at + TIMES.renew_deadline_seconds - TIMES.renew_seconds - 0.1 <= one.end
    assert one.end <= cut_at + TIMES.renew_deadline_seconds
    assert one.end + 1.0 < other.begin < cut_at + 20.0


def test_a_restarted_process_of_the_same_pod_goes_on_at_once() -> None:
    async def main() -> list[Reign]:
        api = Api(LeaseStore(a_lease("a")))
        async with replicas_of(api) as replicas:
            await asyncio.sleep(1.0)
            return list(replicas.reigns)

    (reign,) = run_virtually(main())
    assert (reign.by, reign.begin < 0.1) == ("a", True)


def test_an_answer_that_comes_too_late_makes_nobody_a_leader() -> None:
    """It was applied, but others may take the Lease over by the time it is heard. (The clock runs
    three times as fast as timeouts, as that of a process which sleeps does.)"""
    times = LeaseTimes(lease_seconds=3.0, renew_deadline_seconds=2.0, renew_seconds=0.5)

    async def main() -> tuple[float, int]:
        api = Api(LeaseStore(), [Delivery(), Delivery(back=0.9), Delivery()])
        elector = Elector(Line(api, "a"), NAME, "a", times, clock=lambda: now() * 3)
        await elector.acquire()
        return now(), len(api.requests)

    began, requests = run_virtually(main())
    assert began > 0.9
    assert requests == 3  # looked, created (too slowly), wrote again what it was given


def test_a_leader_asks_once_per_renewal_and_a_standby_once_per_look() -> None:
    async def main() -> tuple[Api, dict[str, list[float]]]:
        api = Api()
        async with replicas_of(api) as replicas:
            await asyncio.sleep(100.0)
            return Api(requests=list(api.requests)), dict(replicas.beats)

    api, beats = run_virtually(main())
    verbs = Counter(verb for _, _, verb in api.requests)
    assert verbs["create"] == 2  # one of them in vain
    assert verbs["replace"] == pytest.approx(50, abs=2)
    assert verbs["get"] == pytest.approx(50, abs=3)
    for times_of in beats.values():
        assert max(later - earlier for earlier, later in pairwise(times_of)) < 2.1


def test_a_leader_survives_ten_seconds_less_a_bit_without_the_api_server() -> None:
    async def main() -> list[Reign]:
        api = Api()
        async with replicas_of(api, "a") as replicas:
            await asyncio.sleep(10.0)
            api.script = [Delivery("unheard")] * 3
            await asyncio.sleep(60.0)
            return list(replicas.reigns)

    assert len(run_virtually(main())) == 1


def test_what_keeps_a_candidate_from_the_lease_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with replicas_of(Api(script=[Delivery("forbidden")] * 20), "a"):
            await asyncio.sleep(30.0)

    run_virtually(main())
    assert [record.message for record in caplog.records] == [
        f"the Lease {NAME.path}: get: forbidden (403); trying again"
    ]


def test_the_work_s_own_error_gives_the_lease_back_and_is_heard() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    async def main() -> Api:
        api = Api()
        with pytest.raises(ZeroDivisionError):
            await lead(Elector(Line(api, "a"), NAME, "a", clock=now), work)
        return api

    lease = run_virtually(main()).store.read()
    assert "holderIdentity" not in lease["spec"]


def test_work_that_is_cancelled_ends_under_the_lease() -> None:
    async def main() -> None:
        api = Api()
        elector = Elector(Line(api, "a"), NAME, "a", clock=now)
        held: list[bool] = []

        async def work() -> None:
            try:
                await asyncio.sleep(1e6)
            finally:
                await asyncio.sleep(30.0)
                held.append(elector.holds)

        leading = asyncio.create_task(lead(elector, work))
        await asyncio.sleep(5.0)
        leading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leading
        assert held == [True]
        assert "holderIdentity" not in api.store.read()["spec"]

    run_virtually(main())


def test_a_lost_lease_is_an_error_at_once_even_if_the_work_will_not_end() -> None:
    async def main() -> float:
        api = Api()

        async def work() -> None:
            api.cut_off.add("a")
            try:
                await asyncio.sleep(1e6)
            finally:
                await asyncio.sleep(50.0)

        with pytest.raises(LeaseLost, match=r"could not be renewed for 10 s \(the API server did"):
            await lead(Elector(Line(api, "a"), NAME, "a", clock=now), work)
        return now()

    assert run_virtually(main()) == pytest.approx(10.0, abs=0.1)
