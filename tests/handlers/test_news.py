"""The cache of children says what is news: a reconcile follows from nothing else."""

from copy import deepcopy
from typing import Any

import pytest

from child_documents import RUN, a_job, a_pod
from prism_operator.cluster.cache import Cache
from prism_operator.cluster.resources import CONFIG_MAPS, JOBS, PODS


@pytest.fixture
def cache() -> Cache:
    cache = Cache()
    assert cache.put(PODS, a_pod(1)) == RUN, "a child that was not known is news"
    return cache


def test_a_change_of_what_decisions_need_is_news_once(cache: Cache) -> None:
    running = a_pod(2, phase="Running", podIP="10.0.0.1")
    assert cache.put(PODS, running) == RUN
    assert cache.put(PODS, deepcopy(running)) is None
    assert cache.put(PODS, a_pod(1)) is None, "an older state of it"


def test_a_change_of_anything_else_is_taken_in_and_is_no_news(cache: Cache) -> None:
    scheduled = a_pod(2, conditions=[{"type": "PodScheduled", "status": "True"}])
    assert cache.put(PODS, scheduled) is None
    (child,) = cache.children(RUN).values()
    assert child.version == 2


@pytest.mark.parametrize(
    "change",
    [
        {"uid": "pod-2"},
        {"deletionTimestamp": "2026-01-02T03:04:05Z"},
        {"ownerReferences": []},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_pod_its_deletion_and_its_owner_are_news(
    cache: Cache, change: dict[str, Any]
) -> None:
    pod = a_pod(2)
    pod["metadata"] |= change
    assert cache.put(PODS, pod) == RUN


def test_an_edit_of_a_job_is_news_and_a_count_in_its_status_is_not() -> None:
    cache, job = Cache(), a_job(1, generation=1)
    cache.put(JOBS, job)
    counted = a_job(2, generation=1, replicaStatuses={"Worker": {"active": 1}})
    assert cache.put(JOBS, counted) is None
    assert cache.put(JOBS, a_job(3, generation=2)) == RUN
    edited = a_job(4, generation=2)
    edited["metadata"]["annotations"] = {"prism.dev/template-hash": "another"}
    assert cache.put(JOBS, edited) == RUN
    failed = [{"type": "Failed", "status": "True", "message": "it failed"}]
    over = a_job(5, generation=2, conditions=failed)
    over["metadata"]["annotations"] = edited["metadata"]["annotations"]
    assert cache.put(JOBS, over) == RUN


def test_an_edit_of_a_child_of_which_nothing_is_seen_is_news() -> None:
    cache, config = Cache(), a_pod(1)
    cache.put(CONFIG_MAPS, config)
    assert cache.put(CONFIG_MAPS, a_pod(2)) == RUN


def test_a_full_list_brings_the_news_that_was_missed(cache: Cache) -> None:
    failed = a_pod(5, phase="Failed")
    assert cache.replace(PODS, None, [failed], 6) == {RUN}
    assert cache.replace(PODS, None, [failed], 7) == set()
    assert cache.replace(PODS, None, [], 8) == {RUN}
