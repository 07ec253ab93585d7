"""A namespace with an operator and a player, and the runs that a test has in it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from api_cluster import ApiCluster, Found, wait_for
from operator_rights import operator_kubeconfig
from played import Player, Script, from_kubeconfig
from prism_api.names import API_VERSION, KIND, PLURAL
from prism_operator.cluster.controller import Pace
from running_operator import RunningOperator

Document = dict[str, Any]

JOBS = ("kubeflow.org/v1", "pytorchjobs")
DEPLOYMENTS = ("apps/v1", "deployments")
SERVICES = ("v1", "services")
POLICIES = ("networking.k8s.io/v1", "networkpolicies")
CONFIGS = ("v1", "configmaps")
SECRETS = ("v1", "secrets")
PODS = ("v1", "pods")
CHILDREN = (JOBS, DEPLOYMENTS, SERVICES, POLICIES, CONFIGS, SECRETS, PODS)
_NOT_OURS = "kube-root-ca.crt"

PATIENT = Pace(poll_seconds=0.2, patience_seconds=0.5)
"""As fast as tests are."""
STAGES: Document = {
    "sft": {"data": [{"uri": "s3://data/sft.parquet"}]},
    "align": {"data": {"uri": "s3://data/align.parquet"}, "steps": 10},
    "rlvr": {"data": {"uri": "s3://data/rlvr.parquet"}, "steps": 10},
}


def a_run(namespace: str, name: str = "run", *stages: str, **spec: Any) -> Document:
    """A PrismRun of some stages (none: SFT); rollouts are in-process unless `spec` says so."""
    chosen = {kind: STAGES[kind] for kind in stages or ("sft",)}
    defaults: Document = {
        "model": {"uri": "hf://org/model"},
        "storage": {"uri": "s3://bucket/runs"},
        "stages": chosen,
    }
    if set(chosen) - {"sft"}:
        defaults["rollout"] = {"backend": "inprocess"}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": defaults | spec}


@dataclass(frozen=True)
class Run:
    """One PrismRun as its user sees it."""

    cluster: ApiCluster
    namespace: str
    name: str

    def document(self) -> Document:
        """All of it; its status is there, if empty."""
        found = self.cluster.admin.get(API_VERSION, PLURAL, self.name, self.namespace)
        return {"status": {}} | found

    @property
    def status(self) -> Document:
        """As it is stored now."""
        status: Document = self.document()["status"]
        return status

    def stage(self, kind: str = "sft") -> Document:
        """Status of a stage; empty if there is none."""
        stage: Document = self.status.get("stages", {}).get(kind, {})
        return stage

    def attempt(self, kind: str = "sft") -> Document:
        """Newest attempt of a stage; empty if there is none."""
        attempt: Document = self.stage(kind).get("attempt", {})
        return attempt

    def condition(self, question: str) -> Document:
        """A condition; empty if it is not there."""
        conditions = self.status.get("conditions", ())
        return next((c for c in conditions if c["type"] == question), {})

    def events(self) -> list[Document]:
        """Events about it, oldest first."""
        uid = self.document()["metadata"]["uid"]
        events = self.cluster.admin.list("events.k8s.io/v1", "events", self.namespace)
        own = (e for e in events if e.get("regarding", {}).get("uid") == uid)
        return sorted(own, key=lambda event: str(event["eventTime"]))

    def event(self, reason: str) -> Document:
        """The first Event of a reason; waits for it."""

        def told() -> Document | None:
            return next((e for e in self.events() if e["reason"] == reason), None)

        found = self.until(f"the Event {reason}", told)
        assert found is not None
        return found

    def change(self, **spec: Any) -> None:
        """Merge some members into its spec."""
        self.cluster.admin.patch(API_VERSION, PLURAL, self.name, self.namespace, {"spec": spec})

    def edit_status(self, **status: Any) -> None:
        """Merge some members into its status, as no user should."""
        self.cluster.admin.patch(
            API_VERSION,
            PLURAL,
            self.name,
            self.namespace,
            {"status": status},
            subresource="status",
        )

    def until(self, what: str, found: Callable[[], Found], seconds: float = 30.0) -> Found:
        """Wait; an error has the run's status."""
        try:
            return wait_for(what, found, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.status}") from None

    def ends(self, state: str = "Succeeded") -> Document:
        """Wait until it has a state that it keeps, and return its status."""
        self.until(f"state {state}", lambda: self.status.get("state") == state)
        return self.status

    def trains(self, kind: str = "sft", number: int | None = None) -> Document:
        """Wait until an attempt at a stage has done its first step, and return the attempt."""

        def there() -> bool:
            attempt = self.attempt(kind)
            is_right = number in (None, attempt.get("number"))
            return is_right and "steppedAt" in attempt and "outcome" not in attempt

        self.until(f"{kind} trains (attempt {number or 'any'})", there)
        return self.attempt(kind)

    def blocked(self, *words: str) -> Document:
        """Wait until the condition Running says why nothing runs, in some words of its message."""

        def told() -> Document | None:
            found = self.condition("Running")
            is_told = all(word in found.get("message", "") for word in words)
            return found if is_told and found.get("status") == "False" else None

        found = self.until(f"Running=False with {words}", told)
        assert found is not None
        return found


@dataclass(frozen=True)
class House:
    """A namespace in which an operator works."""

    cluster: ApiCluster
    namespace: str
    player: Player
    operator: RunningOperator

    def run(self, name: str = "run", *stages: str, **spec: Any) -> Run:
        """Create a run."""
        self.cluster.admin.create(a_run(self.namespace, name, *stages, **spec))
        return Run(self.cluster, self.namespace, name)

    def find(self, kind: tuple[str, str], name: str) -> Document | None:
        """A child."""
        return self.cluster.admin.find(*kind, name, self.namespace)

    def get(self, kind: tuple[str, str], name: str) -> Document:
        """A child that is there, or comes soon."""
        found = wait_for(f"{kind[1]} {name}", lambda: self.find(kind, name), 20.0)
        assert found is not None
        return found

    def patch(self, kind: tuple[str, str], name: str, patch: object) -> Document:
        """Edit a child by hand."""
        return self.cluster.admin.patch(*kind, name, self.namespace, patch)

    def delete(self, kind: tuple[str, str], name: str) -> None:
        """Delete a child by hand."""
        self.cluster.admin.delete(*kind, name, self.namespace)

    def names(self, kind: tuple[str, str]) -> set[str]:
        """Of all that there is of a kind."""
        found = (o["metadata"]["name"] for o in self.cluster.admin.list(*kind, self.namespace))
        return {name for name in found if name != _NOT_OURS}

    def is_empty(self) -> bool:
        """Whether no run has a child here."""
        return not any(self.names(kind) for kind in CHILDREN)

    def stays(self, what: str, is_so: Callable[[], bool], seconds: float = 1.5) -> None:
        """Watch for a while that something does not change."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert is_so(), f"{what}: not any more"
            time.sleep(0.05)


@contextmanager
def a_house(
    cluster: ApiCluster, namespace: str, script: Script, pace: Pace = PATIENT
) -> Iterator[House]:
    """An operator and a player for the time of the block; neither may have had trouble."""
    url, credentials = from_kubeconfig(cluster.admin_kubeconfig)
    with Player(url, credentials, script, namespace=namespace, port=0) as player:
        rights = operator_kubeconfig(cluster, namespace)
        operator = RunningOperator(rights, [namespace], progress_port=player.port, pace=pace)
        with operator:
            yield House(cluster, namespace, player, operator)
        assert not player.record.together(), "pods of two attempts ran at the same time"
        assert not player.record.troubles
