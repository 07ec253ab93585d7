"""Two operators with one Lease: one works, the other follows, whatever happens to the first."""

import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import stuck_operator
from api_cluster import ApiCluster, wait_for
from operated_runs import Document, Run, a_run
from operator_replicas import LEASE, Replica, a_replica
from operator_rights import operator_kubeconfig
from played import Part, Player, Script, from_kubeconfig
from prism_api.names import MANAGER

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
PART = Part(0.02, 0.02, 1.5, stop_s=0.02, progress="not yet")
STAYS = replace(PART, run_s=float("inf"))
DEFAULTS = {
    "PRISM_LEASE_SECONDS": "15",
    "PRISM_RENEW_DEADLINE_SECONDS": "10",
    "PRISM_RENEW_SECONDS": "2",
}
READS = {"get", "list", "watch"}


@dataclass
class Pair:
    """A leader and the one that follows it."""

    cluster: ApiCluster
    namespace: str
    player: Player
    leader: Replica
    standby: Replica

    def run(self, *stages: str) -> Run:
        """Create a run."""
        self.cluster.admin.create(a_run(self.namespace, "run", *stages))
        return Run(self.cluster, self.namespace, "run")

    def ends_well(self, run: Run) -> None:
        """It succeeds, and nothing was done twice."""
        status = run.ends()
        assert status["restarts"] == 0
        assert not self.player.record.created_twice("PyTorchJob")
        assert not self.player.record.created_twice("ConfigMap")
        assert not self.player.record.together()


OpenPair = Callable[[Mapping[str, str]], AbstractContextManager[Pair]]


@pytest.fixture
def pair(cluster: ApiCluster, namespace: str, tmp_path: Path) -> OpenPair:
    """Starts two replicas with the chart's rights."""

    @contextmanager
    def start(times: Mapping[str, str]) -> Iterator[Pair]:
        with ExitStack() as stack:
            url, credentials = from_kubeconfig(cluster.admin_kubeconfig)
            script = Script(lambda who: PART, lambda who: STAYS)
            player = Player(url, credentials, script, namespace=namespace, port=0)
            stack.enter_context(player)
            leader = stack.enter_context(one("first", times))
            wait_for("the first leads", lambda: leader.leads)
            standby = stack.enter_context(one("second", times))
            wait_for("the second waits", lambda: standby.answer("/readyz")[1] == "standby\n")
            yield Pair(cluster, namespace, player, leader, standby)
            assert not player.record.troubles

    @contextmanager
    def one(name: str, times: Mapping[str, str], *program: str) -> Iterator[Replica]:
        kubeconfig = tmp_path / f"{name}.kubeconfig"  # with a token, by which the audit knows it
        shutil.copy(operator_kubeconfig(cluster, namespace), kubeconfig)
        settings = {**times, "PRISM_NAMESPACES": namespace}
        with a_replica(kubeconfig, namespace, name, tmp_path, settings) as replica:
            yield replica

    return start


def in_the_middle(run: Run) -> None:
    run.until("SFT runs", lambda: "trainerStartedAt" in run.attempt("sft"))


def test_a_killed_leader_is_followed_in_the_middle_of_a_run(pair: OpenPair) -> None:
    with pair(LEASE) as two:
        run = two.run("sft", "align")
        in_the_middle(run)
        two.leader.signal(signal.SIGKILL)
        wait_for("the other leads", lambda: two.standby.leads, 15.0)
        two.ends_well(run)


@pytest.mark.slow
def test_with_the_default_times_a_killed_leader_is_followed_within_half_a_minute(
    pair: OpenPair,
) -> None:
    with pair(DEFAULTS) as two:
        run = two.run("sft", "align")
        in_the_middle(run)
        two.leader.signal(signal.SIGKILL)
        killed_at = time.monotonic()
        wait_for("the other leads", lambda: two.standby.leads, 30.0)
        assert time.monotonic() - killed_at > 5.0  # not before the Lease had run out
        two.ends_well(run)


def test_a_leader_that_is_asked_to_end_is_followed_at_once(pair: OpenPair) -> None:
    with pair(LEASE) as two:
        run = two.run("sft", "align")
        in_the_middle(run)
        two.leader.signal(signal.SIGTERM)
        asked_at = time.monotonic()
        wait_for("the other leads", lambda: two.standby.leads, 15.0)
        assert time.monotonic() - asked_at < 5.0
        wait_for("it has ended", lambda: two.leader.has_ended)
        two.ends_well(run)


def test_a_leader_that_hung_writes_nothing_when_it_goes_on_and_ends(pair: OpenPair) -> None:
    with pair(LEASE) as two:
        run = two.run("sft", "align")
        in_the_middle(run)
        writers = {credential_of(one) for one in writes(two)}
        assert len(writers) == 1
        two.leader.process.pause()
        wait_for("the other leads", lambda: two.standby.leads, 15.0)
        two.ends_well(run)
        woken_at = datetime.now(UTC).isoformat()
        two.leader.process.resume()
        wait_for("it has ended", lambda: two.leader.has_ended, 15.0)
        late = [w for w in writes(two) if w["requestReceivedTimestamp"] > woken_at]
        assert not [w for w in late if credential_of(w) in writers]
        assert len({credential_of(one) for one in writes(two)}) == 2


def writes(two: Pair) -> list[Document]:
    """All of both, but for those of the Lease."""
    asked = two.cluster.requests_of(two.namespace, MANAGER)
    changes = (one for one in asked if one["verb"] not in READS)
    return [one for one in changes if one["objectRef"]["resource"] != "leases"]


def credential_of(request: Document) -> str:
    """Which of two tokens of the same account was used."""
    extra = request["user"]["extra"]
    return str(extra["authentication.kubernetes.io/credential-id"])


def test_a_standby_is_alive_and_ready_and_both_show_every_documented_metric(
    pair: OpenPair,
) -> None:
    rows = (ROOT / "docs" / "metrics.md").read_text().splitlines()
    documented = {found[1] for row in rows if (found := re.match(r"\| `(prism_\w+)", row))}
    assert len(documented) > 5
    with pair(LEASE) as two:
        two.ends_well(two.run("sft"))
        for replica in (two.leader, two.standby):
            assert replica.answer("/healthz") == (200, "ok\n")
            code, text = replica.answer("/metrics")
            shown = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
            assert code == 200
            missing = {m for m in documented if not {m, m.removesuffix("_total")} & shown}
            assert not missing
        assert "prism_leader 1" in two.leader.answer("/metrics")[1]
        assert "prism_leader 0" in two.standby.answer("/metrics")[1]


def test_a_reconcile_loop_that_does_not_move_is_dead_whatever_else_answers(
    cluster: ApiCluster, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = operator_kubeconfig(cluster, namespace)
    program = (str(Path(stuck_operator.__file__)),)
    settings = {"PRISM_NAMESPACES": namespace, "PRISM_CONCURRENCY": "1"}
    with a_replica(kubeconfig, namespace, "stuck", tmp_path, settings, program) as replica:
        wait_for("it leads", lambda: replica.leads)
        for _ in range(20):
            assert replica.answer("/healthz") == (200, "ok\n")
            time.sleep(0.1)
        cluster.admin.create(a_run(namespace))
        wait_for("it is dead", lambda: replica.answer("/healthz")[0] == 503, 15.0)
        code, text = replica.answer("/healthz")
        assert (code, "reconcile loop: has not moved" in text) == (503, True)
        assert replica.leads  # and so it is no standby that could take over from itself
