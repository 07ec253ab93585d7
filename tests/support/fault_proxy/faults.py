"""Which faults there are, when they happen, and how often they did."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """What can go wrong between a client and an API server."""

    EVENT_DROPPED = "event dropped"
    """Harsher than a real server, within one watch: healed by the client's next list only."""
    EVENT_DUPLICATED = "event duplicated"
    EVENT_DELAYED = "event delayed"
    """And all that come after it."""
    EVENTS_SWAPPED = "events swapped"
    """Harsher than a real server: the older one comes last."""
    STREAM_CUT = "stream cut"
    """In the middle of a line."""
    STREAM_ENDED = "stream ended"
    """Before its time, after a whole line."""
    STREAM_EXPIRED = "stream expired"
    """An ERROR event with 410 Gone."""
    LIST_STALE = "list stale"
    """An older answer to the same request, where `may_be_stale` says so. Harsher than a real one,
    which has none to a list that asks for no old version; GETs of single objects are as they are.
    """
    REQUEST_DELAYED = "request delayed"
    CONFLICT = "409"
    """A write that is not made."""
    TOO_MANY_REQUESTS = "429"
    """With Retry-After; not executed."""
    ERROR_BEFORE = "500 before"
    """Not executed."""
    ERROR_AFTER = "500 after"
    """A write that is made, and its answer lost."""
    RESET_BEFORE = "reset before"
    """The connection is reset, nothing executed."""
    RESET_AFTER = "reset after"
    """A write that is made, then the connection is reset."""


ALL = tuple(Fault)
OF_EVENTS = ALL[: ALL.index(Fault.LIST_STALE)]
OF_READS = (
    Fault.REQUEST_DELAYED,
    Fault.TOO_MANY_REQUESTS,
    Fault.ERROR_BEFORE,
    Fault.RESET_BEFORE,
)
OF_LISTS = (Fault.LIST_STALE, *OF_READS)
OF_WRITES = (*OF_READS, Fault.CONFLICT, Fault.ERROR_AFTER, Fault.RESET_AFTER)

BEFORE = (Fault.CONFLICT, Fault.TOO_MANY_REQUESTS, Fault.ERROR_BEFORE, Fault.RESET_BEFORE)
"""The API server never sees the request."""
AFTER = (Fault.ERROR_AFTER, Fault.RESET_AFTER)
"""The client never sees the answer."""
RESETS = (Fault.RESET_BEFORE, Fault.RESET_AFTER)


@dataclass
class Counts:
    """Faults injected so far."""

    all: Counter[Fault] = field(default_factory=Counter)
    in_flight: Counter[Fault] = field(default_factory=Counter)
    """Of these, while something was in flight."""


class Dice:
    """Decides at each opportunity (an event, a request) which fault it meets, if any; seeded."""

    def __init__(
        self, seed: int, busy: Callable[[], bool], spared: Callable[[str, str], bool]
    ) -> None:
        self.rates: Mapping[Fault, float] = {}
        """Probability of a fault at an opportunity for it; their sum is 1 at most."""
        self.counts = Counts()
        self._random, self._busy, self._spared = random.Random(seed), busy, spared
        self._ordered: list[tuple[Fault, str]] = []

    def order(self, fault: Fault, where: str) -> None:
        """Let it happen once, at the next opportunity in a path that contains `where`."""
        self._ordered.append((fault, where))

    def falls(self, faults: tuple[Fault, ...], method: str, path: str) -> Fault | None:
        """The fault that happens now; to be confirmed by `count` once it has."""
        if self._spared(method, path):
            return None
        for index, (fault, where) in enumerate(self._ordered):
            if fault in faults and where in path:
                del self._ordered[index]
                return fault
        draw = self._random.random()
        for fault in faults:
            draw -= self.rates.get(fault, 0.0)
            if draw < 0:
                return fault
        return None

    def count(self, fault: Fault) -> None:
        """It was injected."""
        self.counts.all[fault] += 1
        self.counts.in_flight[fault] += self._busy()

    def delay(self, longest_s: float) -> float:
        """How long one lasts: half the longest at least."""
        return self._random.uniform(longest_s / 2, longest_s)
