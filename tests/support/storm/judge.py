"""What has to be true of all runs, whatever the weather was."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from played import Record
from played.record import Seen
from storm.people import Touched

Document = dict[str, Any]

_FINISHED = ("Succeeded", "Failed", "Cancelled")
_UNDER_WAY_SECONDS = 1.0
_AT_ONCE_SECONDS = 5.0
_ONCE = ("PyTorchJob", "ConfigMap", "Deployment", "Service", "NetworkPolicy", "Secret")


def is_finished(document: Document) -> bool:
    """Whether a run says that it is over."""
    return document.get("status", {}).get("state") in _FINISHED


def wrong_with_run(run: Touched, document: Document, record: Record) -> list[str]:
    """What a run that is over should not look like."""
    status, fate = document.get("status", {}), run.plan.fate
    found = []
    if status.get("state") != fate.ends:
        found.append(f"is {status.get('state')}, not {fate.ends}: {status.get('message')}")
    stages = status.get("stages", {})
    reached = run.plan.stages if fate.ends == "Succeeded" else run.plan.stages[:1]
    for kind in reached:
        found += _wrong_with_stage(run, kind, stages.get(kind, {}), record)
    return [f"{run.name}: {what}" for what in found]


def _wrong_with_stage(run: Touched, kind: str, stage: Document, record: Record) -> Iterable[str]:
    fate = run.plan.fate
    is_first = kind == run.plan.stages[0]
    fewest, most = fate.attempts if is_first else (1, 1)
    number = stage.get("attempt", {}).get("number", 0)
    if not (1 if run.costly else fewest) <= number <= most + run.costly:
        yield f"{kind}: {number} attempts, not {fewest} to {most} and {run.costly} by hand"
    faults, allowed = stage.get("restarts", {}).get("faults", 0), fate.faults if is_first else 0
    if not run.costly and faults != allowed:
        yield f"{kind}: {faults} faults, not {allowed}"
    if faults > allowed:
        yield f"{kind}: {faults} faults, more than {allowed}"
    made = _attempts_made(record, run.uid, kind)
    missing = set(range(1, number + 1)) - made
    if len(missing) > run.costly or made - set(range(1, number + 1)):
        yield f"{kind}: jobs of attempts {sorted(made)}, but the newest attempt is {number}"


def _attempts_made(record: Record, uid: str, kind: str) -> set[int]:
    seen = list(record.seen.values())
    jobs = (s for s in seen if (s.kind, s.run_uid, s.stage) == ("PyTorchJob", uid, kind))
    return {int(job.attempt) for job in jobs}


@dataclass
class Twins:
    """Children that were created more than once although nobody had deleted them."""

    wrong: list[str]
    late: int
    """Of these not wrong: what came just after another operator had deleted it, and went at once.
    A creation cannot be fenced; only a Lease keeps it from being under way."""


def made_twice(
    record: Record, runs: dict[str, Touched], strangers: set[str], has_lease: bool
) -> Twins:
    """Of the runs by UID; strangers are nobody's children, whatever their labels say."""
    lives: dict[tuple[str, str, str], list[Seen]] = defaultdict(list)
    for seen in list(record.seen.values()):
        run = runs.get(seen.run_uid)
        if run is None or seen.kind not in _ONCE or seen.uid in strangers:
            continue
        # What was on its way when the run was deleted comes after it, and is collected at once.
        if seen.came_at < run.deleted_at:
            lives[seen.run_uid, seen.kind, seen.name].append(seen)
    twins = Twins([], 0)
    for (uid, kind, name), found in lives.items():
        if (kind, name) in runs[uid].deleted or _may(runs[uid], kind):
            continue
        found.sort(key=lambda seen: seen.came_at)
        late = 0 if has_lease else sum(map(_is_late, found, found[1:]))
        twins.late += late
        if len(found) - late > 1:
            when = ", ".join(f"{_clock(s.came_at)} to {_clock(s.gone_at)}" for s in found)
            twins.wrong.append(
                f"{runs[uid].name}: {kind} {name} was created {len(found)} times: {when}"
            )
    return twins


def _is_late(before: Seen, after: Seen) -> bool:
    if before.gone_at is None or after.gone_at is None:
        return False
    under_way = after.came_at - before.gone_at < _UNDER_WAY_SECONDS
    return under_way and after.gone_at - after.came_at < _AT_ONCE_SECONDS


def _clock(moment: float | None) -> str:
    return "now" if moment is None else f"{datetime.fromtimestamp(moment):%H:%M:%S.%f}"[:-3]


def _may(run: Touched, kind: str) -> bool:
    """A stage's servers go when it is suspended, and come again."""
    return run.costly > 0 and kind in ("Deployment", "Service", "NetworkPolicy")


def lives_of(record: Record, run_uid: str) -> list[str]:
    """When the jobs and pods of a run came, what was done to them, and when they went."""
    found = []
    for seen in list(record.seen.values()):
        if seen.run_uid != run_uid or seen.kind not in ("PyTorchJob", "Pod"):
            continue
        done = [
            f"{sent.what} {_clock(sent.done_at)}"
            for sent in list(record.sent)
            if (sent.kind, sent.name) == (seen.kind, seen.name) and sent.sent_at >= seen.came_at - 1
        ]
        line = f"{seen.kind} {seen.name} {seen.uid[:8]}: {_clock(seen.came_at)}, {', '.join(done)}"
        found.append(f"{line}, gone {_clock(seen.gone_at)}")
    return found


def described(thing: Document) -> str:
    """An object that is still there: since when, of whom, and whether it is on its way out."""
    meta = thing["metadata"]
    owners = [f"{o['kind']} {o['name']} {o['uid'][:8]}" for o in meta.get("ownerReferences", ())]
    facts = [f"of {', '.join(owners) or 'nobody'}", f"created {meta['creationTimestamp']}"]
    if "deletionTimestamp" in meta:
        facts.append(f"to go at {meta['deletionTimestamp']}")
    if phase := thing.get("status", {}).get("phase"):
        facts.append(f"phase {phase}")
    return f"{meta['name']} ({', '.join(facts)})"


def ran_together(record: Record, runs: dict[str, Touched]) -> list[str]:
    """Attempts of one run whose pods ran at the same time."""
    return [
        f"{runs[one.run_uid].name}: {one.stage}-a{one.attempt} and {other.stage}-a{other.attempt} "
        f"ran together for {(one.ended_at or 0) - other.began_at:.2f} s"
        for one, other in record.together()
        if one.run_uid in runs
    ]
