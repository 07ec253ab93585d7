"""Who holds the Lease: the decisions of leader election, pure.

The algorithm is client-go's (k8s.io/client-go/tools/leaderelection). No clock but one's own is
ever read: a candidate counts from when *it* saw the Lease change for the last time, a holder from
when it *sent* the last renewal that was answered. The holder stops acting `renew_deadline_seconds`
after that, others wait `lease_seconds` after they have seen it, which is later; so as long as no
clock runs 1.5 times as fast as another (15 against 10 s), no two act at once. Every write is fenced
by the Lease's resourceVersion.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Document = Mapping[str, Any]
"""A Lease of coordination.k8s.io/v1."""


@dataclass(frozen=True)
class LeaseTimes:
    """How long a Lease holds; the defaults are client-go's."""

    lease_seconds: float = 15.0
    """Others take a Lease over that has not changed for so long."""
    renew_deadline_seconds: float = 10.0
    """A holder that could not renew for so long stops acting."""
    renew_seconds: float = 2.0
    """Pause between renewals, and between looks of those who wait."""


@dataclass(frozen=True)
class Sighting:
    """The Lease as a candidate knows it."""

    lease: Document | None
    since: float
    """When this candidate first saw it so (its own monotonic clock)."""


@dataclass(frozen=True)
class Tenure:
    """That this process holds the Lease."""

    term: int
    """leaseTransitions of the Lease that it acquired: a later one is somebody else's."""
    sent_at: float
    """When the last renewal that was answered was sent (monotonic)."""


@dataclass(frozen=True)
class Acquire:
    """Write the Lease as one's own, or create it."""


@dataclass(frozen=True)
class Renew:
    """Write the Lease anew."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do for so long."""

    seconds: float


@dataclass(frozen=True)
class Lost:
    """Stop acting at once."""

    reason: str


Decision = Acquire | Renew | Wait | Lost


def sight(before: Sighting | None, lease: Document | None, now: float) -> Sighting:
    """What is known after an answer of the API server that arrived at `now` (monotonic).

    A Lease that this candidate never saw has been absent for ever; one that was deleted may have a
    holder who does not know it yet.
    """
    if before is None:
        return Sighting(lease, now if lease else -math.inf)
    is_same = _version(before.lease) == _version(lease)
    return Sighting(lease, before.since if is_same else now)


def decide_lease(
    seen: Sighting, tenure: Tenure | None, identity: str, now: float, times: LeaseTimes
) -> Decision:
    """What a process called `identity` does next; `now` is monotonic.

    `identity` must be of one living process only. Who finds its own name in a Lease that it does
    not hold is a successor in the same pod, or its answer was lost: it need not wait.
    """
    if tenure is not None:
        return _decide_holder(seen.lease, tenure, identity, now, times)
    if seen.lease is not None and holder_of(seen.lease) in ("", identity):
        return Acquire()
    free_in = seen.since + _valid_seconds(seen.lease, times) - now
    return Wait(min(free_in, times.renew_seconds)) if free_in > 0 else Acquire()


def _decide_holder(
    lease: Document | None, tenure: Tenure, identity: str, now: float, times: LeaseTimes
) -> Decision:
    if now >= tenure.sent_at + times.renew_deadline_seconds:
        return Lost(f"it could not be renewed for {times.renew_deadline_seconds:g} s")
    if lease is None:
        return Lost("somebody deleted it")
    if (holder_of(lease), term_of(lease)) != (identity, tenure.term):
        return Lost(f"{holder_of(lease) or 'nobody'} has it, who wrote it since")
    due_in = tenure.sent_at + times.renew_seconds - now
    return Wait(due_in) if due_in > 0 else Renew()


def acquired(
    lease: Document | None, metadata: Document, identity: str, today: datetime, times: LeaseTimes
) -> dict[str, Any]:
    """The Lease to write to become its holder: fenced by what was seen, of a term of its own.

    `metadata` holds the name and namespace of a new one. `today` is only shown to people.
    """
    spec = {
        "holderIdentity": identity,
        "leaseDurationSeconds": math.ceil(times.lease_seconds),
        "acquireTime": _micro_time(today),
        "renewTime": _micro_time(today),
        "leaseTransitions": 0 if lease is None else term_of(lease) + 1,
    }
    if lease is not None:
        return {**copy.deepcopy(dict(lease)), "spec": spec}
    kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    return {**kind, "metadata": dict(metadata), "spec": spec}


def renewed(lease: Document, today: datetime, times: LeaseTimes) -> dict[str, Any]:
    """The Lease to write to go on holding it."""
    duration = math.ceil(times.lease_seconds)
    spec = {**lease["spec"], "renewTime": _micro_time(today), "leaseDurationSeconds": duration}
    return {**copy.deepcopy(dict(lease)), "spec": spec}


def released(lease: Document) -> dict[str, Any]:
    """The Lease to write so that the next one need not wait."""
    spec = {key: value for key, value in lease["spec"].items() if key != "holderIdentity"}
    return {**copy.deepcopy(dict(lease)), "spec": spec}


def holder_of(lease: Document) -> str:
    """Identity of the holder; empty if there is none."""
    return str(lease.get("spec", {}).get("holderIdentity") or "")


def term_of(lease: Document) -> int:
    """How often the Lease was taken over."""
    return int(lease.get("spec", {}).get("leaseTransitions") or 0)


def _valid_seconds(lease: Document | None, times: LeaseTimes) -> float:
    """What the holder promised; it may have other settings than we, in the middle of an upgrade."""
    spec = {} if lease is None else lease.get("spec", {})
    return float(spec.get("leaseDurationSeconds") or times.lease_seconds)


def _version(lease: Document | None) -> str:
    return "" if lease is None else str(lease["metadata"]["resourceVersion"])


def _micro_time(today: datetime) -> str:
    return today.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
