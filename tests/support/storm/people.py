"""What users do to runs while they run, and things of others that must stay as they are."""

import copy
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from admin_client import AdminClient, ApiError
from prism_api.names import API_VERSION, PLURAL, RUN_LABEL, UID_LABEL
from storm.fates import Plan

Document = dict[str, Any]

KINDS = {
    "pytorchjobs": "kubeflow.org/v1",
    "deployments": "apps/v1",
    "services": "v1",
    "networkpolicies": "networking.k8s.io/v1",
    "configmaps": "v1",
    "pods": "v1",
}
"""Of children, by resource."""
_KIND_NAMES = {
    "pytorchjobs": "PyTorchJob",
    "deployments": "Deployment",
    "services": "Service",
    "networkpolicies": "NetworkPolicy",
    "configmaps": "ConfigMap",
    "pods": "Pod",
}
_OWNERS = ("PrismRun", "PyTorchJob", "ReplicaSet")
"""Of children and of their pods."""
_EDITS: dict[str, Document] = {
    "deployments": {"spec": {"replicas": 3}},
    "services": {"spec": {"selector": {"app": "another"}}},
    "networkpolicies": {"spec": {"ingress": [{}]}},
    "configmaps": {"metadata": {"annotations": {"note": "by hand"}}},
    "pytorchjobs": {"metadata": {"annotations": {"note": "by hand"}}},
}
_STATUS_EDITS: tuple[Document, ...] = (
    {"state": "Succeeded", "message": "by hand"},
    {"conditions": []},
    {"step": "99/1", "restarts": 77},
)


@dataclass
class Touched:
    """A run, and what was done to it by hand."""

    plan: Plan
    uid: str
    costly: int = 0
    """Things done to it that may each cost an attempt."""
    deleted: set[tuple[str, str]] = field(default_factory=set)
    """Kinds and names of children that were deleted by hand: they may come again."""
    deleted_at: float = math.inf
    """When the run itself was deleted; Unix seconds."""
    is_suspended: bool = False
    resumes_at: float = 0.0

    @property
    def name(self) -> str:
        """Of the run."""
        return self.plan.name


class People:
    """Users of one namespace."""

    def __init__(self, admin: AdminClient, namespace: str, chance: random.Random) -> None:
        self._admin, self._namespace, self._chance = admin, namespace, chance
        self.done: Counter[str] = Counter()
        """What they did, by kind."""
        self.runs: dict[str, Touched] = {}
        """That there are, by name."""
        self.former: dict[str, Touched] = {}
        """That were deleted, by UID."""
        self._deeds: dict[str, tuple[int, Callable[[Touched], bool]]] = {
            "run re-created": (9, self._recreate),
            "child deleted": (8, self._delete_child),
            "child edited": (8, self._edit_child),
            "label removed": (2, self._remove_label),
            "status edited": (3, self._edit_status),
            "suspended": (2, self._suspend),
        }

    def submit(self, plan: Plan) -> None:
        """Create a run."""
        made = self._admin.create(plan.document)
        self.runs[plan.name] = Touched(plan, made["metadata"]["uid"])

    def act(self, name: str) -> None:
        """Do anything to a run."""
        weights = [weight for weight, _ in self._deeds.values()]
        what = self._chance.choices(list(self._deeds), weights)[0]
        run = self.runs[name]
        try:
            if self._deeds[what][1](run):
                self.done[what] += 1
        except ApiError as error:
            if error.code not in (404, 409):  # it has gone, or is another one by now
                raise

    def resume(self, now: float) -> None:
        """Whatever was suspended for long enough."""
        for run in self.runs.values():
            if run.is_suspended and now >= run.resumes_at:
                self._change(run, {"suspend": False})
                run.is_suspended = False
                self.done["resumed"] += 1

    def rescue(self, name: str) -> None:
        """Delete the first pod of a run that hangs."""
        run = self.runs[name]
        pods = [pod for pod in self._children(run, "pods") if "-a1-" in pod["metadata"]["name"]]
        for pod in pods:
            self._note(run, "pods", pod, costs=True)
            self._delete("pods", pod)
            self.done["child deleted"] += 1

    def _recreate(self, run: Touched) -> bool:
        run.deleted_at = time.time()
        self._admin.delete(API_VERSION, PLURAL, run.name, self._namespace)
        self.former[run.uid] = self.runs.pop(run.name)
        self.submit(run.plan)
        return True

    def _delete_child(self, run: Touched) -> bool:
        plural, child = self._any_of(run, list(KINDS))
        if child is None:
            return False
        self._note(run, plural, child, costs=plural in ("pytorchjobs", "pods"))
        self._delete(plural, child)
        return True

    def _edit_child(self, run: Touched) -> bool:
        plural, child = self._any_of(run, list(_EDITS))
        return child is not None and self._patch(plural, child, _EDITS[plural])

    def _remove_label(self, run: Touched) -> bool:
        plural, child = self._any_of(run, ["deployments", "services", "networkpolicies"])
        patch = {"metadata": {"labels": {UID_LABEL: None}}}
        return child is not None and self._patch(plural, child, patch)

    def _edit_status(self, run: Touched) -> bool:
        patch = {"status": self._chance.choice(_STATUS_EDITS)}
        where = (API_VERSION, PLURAL, run.name, self._namespace)
        self._admin.patch(*where, patch, subresource="status")
        return True

    def _suspend(self, run: Touched) -> bool:
        if run.is_suspended:
            return False
        run.is_suspended, run.costly = True, run.costly + 1
        run.resumes_at = time.monotonic() + self._chance.uniform(0.3, 2.0)
        self._change(run, {"suspend": True})
        return True

    def _change(self, run: Touched, spec: Document) -> None:
        self._admin.patch(API_VERSION, PLURAL, run.name, self._namespace, {"spec": spec})

    def _children(self, run: Touched, plural: str) -> list[Document]:
        selector = f"{UID_LABEL}={run.uid}"
        found = self._admin.list(KINDS[plural], plural, self._namespace, selector)
        return [child for child in found if _owner_kind(child) in _OWNERS]

    def _any_of(self, run: Touched, plurals: list[str]) -> tuple[str, Document | None]:
        """Of a random kind that the run has, if it has any."""
        for plural in self._chance.sample(plurals, len(plurals)):
            if found := self._children(run, plural):
                return plural, self._chance.choice(found)
        return "", None

    def _note(self, run: Touched, plural: str, child: Document, *, costs: bool) -> None:
        """Before it is done: it may be done although the answer is lost."""
        run.deleted.add((_KIND_NAMES[plural], child["metadata"]["name"]))
        run.costly += costs

    def _delete(self, plural: str, child: Document) -> None:
        self._admin.delete(KINDS[plural], plural, child["metadata"]["name"], self._namespace)

    def _patch(self, plural: str, child: Document, patch: Document) -> bool:
        name = child["metadata"]["name"]
        self._admin.patch(KINDS[plural], plural, name, self._namespace, patch)
        return True


class Strangers:
    """Objects of other owners: with the labels of runs, or with the names of children to come."""

    def __init__(self, admin: AdminClient, namespace: str) -> None:
        self._admin, self._namespace = admin, namespace
        self._there: dict[tuple[str, str], Document] = {}
        self.uids: set[str] = set()
        """Of all that ever were there."""

    def settle_beside(self, run: Touched) -> None:
        """With its labels, and with an owner that is not the run, or with none."""
        labels = {UID_LABEL: run.uid, RUN_LABEL: run.name, "app": "strange"}
        owner = self._owner()
        self._create("configmaps", f"{run.name}-beside", labels, {"data": {"a": "b"}}, owner)
        spec = {"spec": {"selector": {"app": "strange"}, "ports": [{"port": 80}]}}
        self._create("services", f"{run.name}-beside", labels, spec, None)

    def squat(self, plan: Plan) -> None:
        """On the name of a run's first children, before it is there."""
        self._create("configmaps", f"{plan.name}-{plan.stages[0]}-a1", {}, {"data": {}}, None)

    def squat_on(self, run: Touched) -> None:
        """On the name of its servers, with its labels and another owner."""
        labels = {UID_LABEL: run.uid, RUN_LABEL: run.name}
        spec = {"spec": {"selector": {"app": "strange"}, "ports": [{"port": 80}]}}
        for stage in run.plan.stages:
            if stage != "sft":
                name = f"{run.name}-{stage}-rollout"
                self._create("services", name, labels, spec, self._owner())

    def changed(self) -> list[str]:
        """What is not as it was any more."""
        found = []
        for (plural, name), before in self._there.items():
            now = self._admin.find(KINDS[plural], plural, name, self._namespace)
            if now is None:
                found.append(f"a stranger's {plural}/{name} is gone")
            elif _content(now) != _content(before):
                found.append(f"a stranger's {plural}/{name} was changed: {_content(now)}")
        return found

    def leave(self) -> None:
        """All go, as their owners like it."""
        for plural, name in self._there:
            self._admin.delete(KINDS[plural], plural, name, self._namespace)
        self._there.clear()

    def _owner(self) -> Document:
        """Of a living object that is no run."""
        account = self._admin.get("v1", "serviceaccounts", "default", self._namespace)
        uid = account["metadata"]["uid"]
        kind = {"apiVersion": "v1", "kind": "ServiceAccount"}
        return {**kind, "name": "default", "uid": uid, "controller": True}

    def _create(
        self,
        plural: str,
        name: str,
        labels: Document,
        content: Document,
        owner: Document | None,
    ) -> None:
        meta: Document = {"name": name, "namespace": self._namespace, "labels": labels}
        if owner:
            meta["ownerReferences"] = [owner]
        head = {"apiVersion": KINDS[plural], "kind": _KIND_NAMES[plural], "metadata": meta}
        try:
            made = self._admin.create(head | copy.deepcopy(content))
        except ApiError as error:
            if error.code != 409:
                raise
            return  # the run was faster
        self._there[plural, name] = made
        self.uids.add(made["metadata"]["uid"])


def _owner_kind(thing: Document) -> str:
    owners = thing["metadata"].get("ownerReferences") or [{"kind": ""}]
    return str(owners[0]["kind"])


def _content(thing: Document) -> Document:
    """All but what the API server counts."""
    meta = {k: v for k, v in thing["metadata"].items() if k not in ("managedFields",)}
    return thing | {"metadata": meta}
