"""What a watch has missed of runs comes to light by a list of all of them."""

import asyncio
from typing import Any

import pytest

from prism_api.resources import Images
from prism_operator.cluster.census import Census
from prism_operator.cluster.errors import Unavailable
from prism_operator.cluster.runs import RunReader, RunRecord

Document = dict[str, Any]


class Lists:
    """Answers lists of runs in pages; the first question goes wrong."""

    def __init__(self, *pages: Document) -> None:
        self._pages, self.asked = pages, 0

    async def list(self, path: str, selector: str, *, token: str = "") -> Document:
        self.asked += 1
        if self.asked == 1:
            raise Unavailable("GET runs", 500, "etcdserver: request timed out")
        return self._pages[int(token or 0)]


class Heard:
    def __init__(self) -> None:
        self.changed: list[str] = []
        self.deleted: list[str] = []

    def run_listed(self, document: Document) -> None:
        self.changed.append(document["metadata"]["uid"])

    def run_missed(self, uid: str) -> None:
        self.deleted.append(uid)


def a_run(uid: str, version: int, namespace: str = "here") -> Document:
    meta = {"uid": uid, "name": uid, "namespace": namespace, "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {}}


def a_record(uid: str, version: int, namespace: str = "here") -> RunRecord:
    return RunReader(Images()).read(a_run(uid, version, namespace), None)


def counted(known: list[RunRecord], *pages: Document) -> Heard:
    """What is heard of a census in a namespace after the list that failed."""
    heard, lists = Heard(), Lists(*pages)
    records = {record.uid: record for record in known}
    census = Census(lists, ("here",), heard, lambda: records, 0.0)  # type: ignore[arg-type]

    async def twice() -> None:
        task = asyncio.create_task(census.run())
        while lists.asked < 1 + len(pages):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(twice())
    return heard


def a_page(version: int, *runs: Document, token: str = "") -> Document:
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(runs)}


def test_a_run_whose_events_were_lost_is_found_on_any_page() -> None:
    heard = counted([], a_page(9, a_run("one", 3), token="1"), a_page(9, a_run("two", 4)))
    assert heard.changed[:2] == ["one", "two"]
    assert not heard.deleted


def test_a_run_that_is_not_there_any_more_is_deleted() -> None:
    assert set(counted([a_record("old", 3)], a_page(9)).deleted) == {"old"}


@pytest.mark.parametrize(
    "record", [a_record("newer", 10), a_record("elsewhere", 3, namespace="there")]
)
def test_a_list_says_nothing_of_newer_runs_and_of_other_namespaces(record: RunRecord) -> None:
    assert not counted([record], a_page(9)).deleted
