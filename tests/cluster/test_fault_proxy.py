"""Each fault of the proxy, as a plain client meets it; without faults it is not noticed."""

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from api_cluster import ApiCluster, wait_for
from fault_proxy import ALL, Fault, FaultProxy, Killed, Moment, Write

pytestmark = pytest.mark.cluster

Document = dict[str, Any]
DELAY_S = 0.4
RESETS = (ConnectionError, http.client.HTTPException)


@pytest.fixture
def proxy(cluster: ApiCluster) -> Iterator[FaultProxy]:
    with FaultProxy(cluster.url, cluster.certificate_authority, delay_s=DELAY_S) as proxy:
        yield proxy


class Client:
    """An administrator who believes what they are told: no second tries, no cache."""

    def __init__(self, cluster: ApiCluster, proxy: FaultProxy, namespace: str) -> None:
        cluster.apply_yaml(ADMIN.format(namespace=namespace))
        token = cluster.token_for(namespace, "default")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._address = urlsplit(proxy.url).netloc
        self.maps = f"/api/v1/namespaces/{namespace}/configmaps"

    def ask(self, method: str, path: str, body: Document | None = None) -> tuple[int, Document]:
        with self._asked(method, path, body) as response:
            return response.status, json.loads(response.read())

    def create(self, name: str) -> tuple[int, Document]:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        return self.ask("POST", self.maps, body)

    def names(self) -> list[str]:
        items = self.ask("GET", self.maps)[1]["items"]
        return [item["metadata"]["name"] for item in items if item["metadata"]["name"] != CA]

    def retry_after(self) -> str | None:
        with self._asked("GET", self.maps) as response:
            response.read()
            return response.headers["Retry-After"]

    @contextmanager
    def _asked(
        self, method: str, path: str, body: Document | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._address, timeout=20)
        headers = self._headers | {"Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        try:
            yield response
        finally:
            # A response without an end has the connection's file until it is closed, too.
            response.close()
            connection.close()

    @contextmanager
    def watching(self) -> Iterator["Watch"]:
        version = self.ask("GET", self.maps)[1]["metadata"]["resourceVersion"]
        query = f"?watch=1&allowWatchBookmarks=true&resourceVersion={version}"
        with self._asked("GET", self.maps + query) as response:
            watch = Watch(response)
            try:
                yield watch
            finally:
                watch.leave()


class Watch(threading.Thread):
    """Reads a watch to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        super().__init__(daemon=True)
        self._response = response
        self._socket = socket.socket(fileno=os.dup(response.fileno()))
        self.lines: list[bytes] = []
        self.broken = False
        self.start()

    def run(self) -> None:
        try:
            while line := self._response.readline():
                self.lines.append(line)
        except (*RESETS, OSError):
            self.broken = True

    def leave(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self._socket.close()

    def events(self) -> list[tuple[str, str]]:
        events = [json.loads(line) for line in self.lines if line.endswith(b"\n")]
        named = [(each["type"], each["object"]["metadata"].get("name", "")) for each in events]
        return [each for each in named if each[1] != CA and each[0] != "BOOKMARK"]


CA = "kube-root-ca.crt"
ADMIN = """
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: admin, namespace: "{namespace}"}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}}
subjects: [{{kind: ServiceAccount, name: default, namespace: "{namespace}"}}]
"""


@pytest.fixture
def client(cluster: ApiCluster, proxy: FaultProxy, namespace: str) -> Client:
    client = Client(cluster, proxy, namespace)
    root = cluster.admin.find
    wait_for("the namespace's CA", lambda: root("v1", "configmaps", CA, namespace), 10)
    return client


def added(*names: str) -> list[tuple[str, str]]:
    return [("ADDED", name) for name in names]


def test_without_faults_requests_and_watches_pass_as_whoever_sent_them(
    client: Client, proxy: FaultProxy
) -> None:
    with client.watching() as watch:
        assert client.create("one")[0] == 201
        wait_for("the event", lambda: watch.events() == added("one"), 10)
    assert client.names() == ["one"]
    assert client.ask("GET", "/api/v1/nodes")[0] == 403
    assert [(write.method, write.status) for write in proxy.writes] == [("POST", 201)]
    assert not proxy.counts.all


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (Fault.EVENT_DROPPED, ["two", "three"]),
        (Fault.EVENT_DUPLICATED, ["one", "one", "two", "three"]),
        (Fault.EVENTS_SWAPPED, ["two", "one", "three"]),
    ],
)
def test_events_are_dropped_duplicated_and_swapped(
    client: Client, proxy: FaultProxy, fault: Fault, seen: list[str]
) -> None:
    with client.watching() as watch:
        proxy.once(fault, "watch=1")
        for name in ("one", "two", "three"):
            client.create(name)
        wait_for("all events", lambda: len(watch.events()) == len(seen), 10)
        assert watch.events() == added(*seen)
    assert proxy.counts.all == {fault: 1}


def test_an_event_is_late_and_all_that_follow(client: Client, proxy: FaultProxy) -> None:
    with client.watching() as watch:
        proxy.once(Fault.EVENT_DELAYED, "watch=1")
        began_s = time.monotonic()
        for name in ("one", "two"):
            client.create(name)
        wait_for("both events", lambda: len(watch.events()) == 2, 10)
        assert time.monotonic() - began_s > DELAY_S / 2
        assert watch.events() == added("one", "two")


def test_a_stream_is_cut_within_a_line(client: Client, proxy: FaultProxy) -> None:
    with client.watching() as watch:
        proxy.once(Fault.STREAM_CUT, "watch=1")
        client.create("one")
        wait_for("its end", lambda: not watch.is_alive(), 10)
        assert watch.broken
        assert watch.events() == []


def test_a_stream_ends_early(client: Client, proxy: FaultProxy) -> None:
    with client.watching() as watch:
        proxy.once(Fault.STREAM_ENDED, "watch=1")
        client.create("one")
        wait_for("its end", lambda: not watch.is_alive(), 10)
        assert not watch.broken
        assert watch.events() == []


def test_a_stream_expires(client: Client, proxy: FaultProxy) -> None:
    with client.watching() as watch:
        proxy.once(Fault.STREAM_EXPIRED, "watch=1")
        client.create("one")
        wait_for("its end", lambda: not watch.is_alive(), 10)
        error = json.loads(watch.lines[-1])
    assert (error["type"], error["object"]["code"]) == ("ERROR", 410)


@pytest.mark.parametrize(
    ("fault", "status"),
    [(Fault.CONFLICT, 409), (Fault.TOO_MANY_REQUESTS, 429), (Fault.ERROR_BEFORE, 500)],
)
def test_a_refused_write_is_not_made(
    client: Client, proxy: FaultProxy, fault: Fault, status: int
) -> None:
    proxy.once(fault)
    assert client.create("one")[0] == status
    assert client.names() == []
    assert proxy.writes[0].status is None


def test_too_many_requests_say_when_to_come_again(client: Client, proxy: FaultProxy) -> None:
    proxy.once(Fault.TOO_MANY_REQUESTS)
    assert client.retry_after() == "1"


def test_a_write_is_made_though_the_answer_is_an_error(client: Client, proxy: FaultProxy) -> None:
    proxy.once(Fault.ERROR_AFTER)
    assert client.create("one")[0] == 500
    assert client.names() == ["one"]
    assert proxy.writes[0].status == 201


@pytest.mark.parametrize(
    ("fault", "made"), [(Fault.RESET_BEFORE, []), (Fault.RESET_AFTER, ["one"])]
)
def test_a_connection_is_reset_before_or_after_the_write(
    client: Client, proxy: FaultProxy, fault: Fault, made: list[str]
) -> None:
    proxy.once(fault)
    with pytest.raises(RESETS):
        client.create("one")
    assert client.names() == made


def test_a_list_may_be_old_but_an_object_never_is(client: Client, proxy: FaultProxy) -> None:
    client.create("one")
    assert client.names() == ["one"]
    client.create("two")
    proxy.once(Fault.LIST_STALE)
    assert client.ask("GET", f"{client.maps}/two")[0] == 200
    assert client.names() == ["one"]
    assert client.names() == ["one", "two"]


def test_a_request_is_late(client: Client, proxy: FaultProxy) -> None:
    proxy.once(Fault.REQUEST_DELAYED)
    began_s = time.monotonic()
    assert client.create("one")[0] == 201
    assert time.monotonic() - began_s > DELAY_S / 2
    assert proxy.counts.all == {Fault.REQUEST_DELAYED: 1}


def test_rates_bring_every_kind_of_fault_and_what_is_spared_meets_with_none(
    cluster: ApiCluster, namespace: str
) -> None:
    proxy = FaultProxy(
        cluster.url,
        cluster.certificate_authority,
        busy=lambda: True,
        spared=lambda method, path: method == "DELETE",
        delay_s=0.01,
    )
    with proxy:
        client = Client(cluster, proxy, namespace)
        proxy.rates = dict.fromkeys(ALL, 0.06)
        deadline, number = time.monotonic() + 60, 0
        while set(proxy.counts.all) != set(ALL) and time.monotonic() < deadline:
            with suppress(*RESETS, KeyError), client.watching():
                for _ in range(5):
                    number += 1
                    with suppress(*RESETS):
                        client.create(f"map-{number}")
        assert client.ask("DELETE", client.maps)[0] == 200
    assert set(proxy.counts.all) == set(ALL)
    assert proxy.counts.in_flight == proxy.counts.all


@pytest.mark.parametrize(("moment", "made"), [("before", []), ("after", ["second"])])
def test_a_client_is_dead_from_a_chosen_write_on_until_it_is_revived(
    client: Client, proxy: FaultProxy, moment: Moment, made: list[str]
) -> None:
    proxy.hook = killed_at(1, moment)
    with client.watching() as watch:
        assert client.create("first")[0] == 201
        with pytest.raises(RESETS):
            client.create("second")
        wait_for("the watch's end", lambda: not watch.is_alive(), 10)
    with pytest.raises(RESETS):
        client.names()
    assert proxy.severed
    proxy.hook = None
    proxy.revive()
    assert client.names() == ["first", *made]


def killed_at(index: int, moment: Moment) -> Callable[[Moment, Write], None]:
    def hook(now: Moment, write: Write) -> None:
        if (now, write.index) == (moment, index):
            raise Killed

    return hook


def test_uncounted_writes_have_no_index(client: Client, proxy: FaultProxy) -> None:
    proxy.counted = lambda method, path: method != "DELETE"
    client.create("one")
    client.ask("DELETE", f"{client.maps}/one")
    client.create("two")
    assert [(write.index, write.method) for write in proxy.writes] == [(0, "POST"), (1, "POST")]


def test_an_api_server_that_is_away_looks_like_a_reset_connection(
    cluster: ApiCluster, client: Client
) -> None:
    cluster.kill_apiserver()
    try:
        with pytest.raises(RESETS):
            client.names()
    finally:
        cluster.start_apiserver()
    assert client.names() == []
