"""Electors against one Lease, in virtual time: one leads, and when it goes, the next one does."""

import asyncio
from collections import Counter
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lease_builders import NAME, TIMES, a_lease
from lease_replicas import Api, Delivery, Fate, Line, Reign, now, replicas_of
from lease_store import LeaseStore
from prism_operator.cluster.leadership import Elector, LeaseLost, lead
from prism_operator.cluster.lease import LeaseTimes
from virtual_time import run_virtually

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
