"""Leader election of real processes on a real API server."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

import lease_candidate
from api_cluster import ApiCluster
from prism_operator.cluster.events import Note, RunReference, build_event

pytestmark = pytest.mark.cluster

LEASES = "coordination.k8s.io/v1"
ROLE = """
apiVersion: v1
kind: ServiceAccount
metadata: {{name: operator, namespace: {namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: operator, namespace: {namespace}}}
rules:
- {{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [prism-operator]
  verbs: [get, update]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: operator, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: operator}}
subjects: [{{kind: ServiceAccount, name: operator, namespace: {namespace}}}]
"""

Candidate = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def candidate(cluster: ApiCluster, namespace: str) -> Iterator[Candidate]:
    """Starts a replica of the given identity with the rights that election needs, and no others."""
    cluster.apply_yaml(ROLE.format(namespace=namespace))
    token = cluster.token_for(namespace, "operator")
    script, authority = Path(lease_candidate.__file__), cluster.certificate_authority

    def start(identity: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, script, cluster.url, authority, namespace, identity],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        assert process.stdin is not None
        process.stdin.write(token + "\n")
        process.stdin.close()
        return process

    with ExitStack() as stack:
        yield start


def lease_of(cluster: ApiCluster, namespace: str) -> dict[str, Any]:
    """Its spec; empty without one."""
    lease = cluster.admin.find(LEASES, "leases", "prism-operator", namespace)
    return lease["spec"] if lease else {}


def leads(process: subprocess.Popen[str]) -> bool:
    """Wait until it says so."""
    assert process.stdout is not None
    return process.stdout.readline() == "leads\n"


def test_a_killed_leader_is_followed_by_the_other_when_its_lease_has_run_out(
    cluster: ApiCluster, namespace: str, candidate: Candidate
) -> None:
    first = candidate("first")
    assert leads(first)
    second = candidate("second")
    time.sleep(2 * lease_candidate.TIMES.lease_seconds)
    assert lease_of(cluster, namespace)["holderIdentity"] == "first"
    first.kill()
    killed_at = time.monotonic()
    assert leads(second)
    assert 1.0 < time.monotonic() - killed_at < 30.0
    spec = lease_of(cluster, namespace)
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("second", 1)


def test_a_leader_that_is_asked_to_end_gives_its_lease_back(
    cluster: ApiCluster, namespace: str, candidate: Candidate
) -> None:
    first = candidate("first")
    assert leads(first)
    first.terminate()
    first.wait()
    assert "holderIdentity" not in lease_of(cluster, namespace)
    assert leads(candidate("second"))


def test_a_leader_that_hangs_ends_when_it_wakes_up_and_has_been_followed(
    cluster: ApiCluster, namespace: str, candidate: Candidate
) -> None:
    first = candidate("first")
    assert leads(first)
    second = candidate("second")
    psutil.Process(first.pid).suspend()
    assert leads(second)
    psutil.Process(first.pid).resume()
    assert first.wait(timeout=10) != 0
    assert lease_of(cluster, namespace)["holderIdentity"] == "second"


def test_the_api_server_takes_our_events_and_shows_them_of_the_run(
    cluster: ApiCluster, namespace: str
) -> None:
    run = RunReference(namespace, "qwen", "0d8c1f2e-5b7a-4c1d-9a31-7f6f2f0f9b11")
    note = Note("AttemptFailed", "ä" * 2000, "Warning")
    event = build_event(run, note, datetime.now(UTC), "prism-operator-5d4-x7")
    cluster.admin.create(event)
    (shown,) = cluster.admin.list("v1", "events", namespace)
    assert shown["reason"] == "AttemptFailed"
    assert shown["involvedObject"]["uid"] == run.uid
    assert shown["message"] == event["note"]
    listed = cluster.kubectl("-n", namespace, "events").stdout
    assert listed.splitlines()[1].split()[1:4] == ["Warning", "AttemptFailed", "PrismRun/qwen"]
