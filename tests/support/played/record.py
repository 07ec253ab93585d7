"""What was seen and sent: the evidence of tests that say "nothing was created twice"."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TextIO

import orjson

from played.api import Json
from prism_api.names import ATTEMPT_LABEL, STAGE_LABEL, UID_LABEL


@dataclass(frozen=True)
class Seen:
    """An object that came, or went; times in Unix seconds."""

    kind: str
    namespace: str
    name: str
    uid: str
    run_uid: str
    stage: str
    attempt: str
    """Empty where it belongs to a stage, not to one attempt."""
    came_at: float
    gone_at: float | None = None


@dataclass(frozen=True)
class Sent:
    """A change that the player made; what it changed is visible somewhere between both times."""

    kind: str
    namespace: str
    name: str
    what: str
    """created, scheduled, waiting, running, ready, ended, removed, ...; of a job its conditions."""
    sent_at: float
    """Unix seconds, when the request left."""
    done_at: float
    """Unix seconds, when the answer was there."""
    exit_code: int | None = None
    """Of a container that ended."""


@dataclass
class Ran:
    """A trainer pod's time; Unix seconds."""

    run_uid: str
    stage: str
    attempt: str
    uid: str
    began_at: float
    ended_at: float | None = None


class Record:
    """Grows while the player plays; read it from any thread."""

    def __init__(self, file: TextIO | None = None) -> None:
        self.seen: dict[str, Seen] = {}
        """By UID."""
        self.sent: list[Sent] = []
        """In order of their answers."""
        self.ran: dict[str, Ran] = {}
        """By the UID of the pod."""
        self.refused: list[str] = []
        """Why pods could not be created: quotas, policies."""
        self.troubles: list[str] = []
        """Errors of the player itself; a test that trusts it sees that there are none."""
        self._file = file

    def came(self, kind: str, thing: Json, at: float) -> None:
        """An object was created."""
        meta = thing["metadata"]
        labels = meta.get("labels", {})
        if meta["uid"] in self.seen:
            return
        self.seen[meta["uid"]] = seen = Seen(
            kind,
            meta.get("namespace", ""),
            meta["name"],
            meta["uid"],
            labels.get(UID_LABEL, ""),
            labels.get(STAGE_LABEL, ""),
            labels.get(ATTEMPT_LABEL, ""),
            at,
        )
        self._write("came", seen)

    def went(self, thing: Json, at: float) -> None:
        """An object is gone."""
        if seen := self.seen.get(thing["metadata"]["uid"]):
            self.seen[seen.uid] = gone = replace(seen, gone_at=at)
            self._write("went", gone)

    def did(self, sent: Sent) -> None:
        """The player changed something."""
        self.sent.append(sent)
        self._write("sent", sent)

    def uids(self, kind: str, name: str) -> list[str]:
        """Of all objects that ever had that name, oldest first."""
        return [s.uid for s in list(self.seen.values()) if (s.kind, s.name) == (kind, name)]

    def created_twice(self, kind: str) -> dict[str, list[str]]:
        """Names that more than one object of a run had, with their UIDs; a name that another run
        (another UID) had before is no such name."""
        uids: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for seen in list(self.seen.values()):
            if seen.kind == kind:
                uids[seen.run_uid, seen.namespace, seen.name].append(seen.uid)
        return {f"{key[1]}/{key[2]}": found for key, found in uids.items() if len(found) > 1}

    def together(self) -> list[tuple[Ran, Ran]]:
        """Pairs of pods of one run, of different attempts or stages, that ran at the same time:
        what must never be."""
        runs: dict[str, list[Ran]] = defaultdict(list)
        for ran in list(self.ran.values()):
            runs[ran.run_uid].append(ran)
        return [pair for pods in runs.values() for pair in _overlapping(pods)]

    def _write(self, event: str, what: Seen | Sent) -> None:
        if self._file:
            self._file.write(orjson.dumps({"event": event, **vars(what)}).decode() + "\n")


def _overlapping(pods: list[Ran]) -> Iterator[tuple[Ran, Ran]]:
    for one, other in combinations(pods, 2):
        alike = (one.stage, one.attempt) == (other.stage, other.attempt)
        if not alike and _before_end(one, other) and _before_end(other, one):
            yield one, other


def _before_end(one: Ran, other: Ran) -> bool:
    return other.ended_at is None or one.began_at < other.ended_at
