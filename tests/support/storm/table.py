"""What fell on the runs, counted and printed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fault_proxy import ALL, Counts

SEVERED = "watches and requests that restarts severed"
"""What a restart of the API server is to the operators."""
BY_HAND = ("run re-created", "child deleted", "child edited")
"""Of what users do while runs are under way."""


@dataclass
class Tally:
    """Of a whole storm."""

    injected: Counter[str] = field(default_factory=Counter)
    """By kind of fault."""
    in_flight: Counter[str] = field(default_factory=Counter)
    """Of these, while a run was under way."""
    done: Counter[str] = field(default_factory=Counter)
    """What users, operators and the API server did."""
    runs: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """What must not be."""

    def add_faults(self, counts: Counts) -> None:
        """Those of a proxy."""
        self.injected.update({str(fault): number for fault, number in counts.all.items()})
        self.in_flight.update({str(fault): number for fault, number in counts.in_flight.items()})

    def add(self, other: "Tally") -> None:
        """Another storm."""
        self.injected += other.injected
        self.in_flight += other.in_flight
        self.done += other.done
        self.runs, self.seconds = self.runs + other.runs, self.seconds + other.seconds
        self.wrong += other.wrong

    def met(self) -> dict[str, int]:
        """Faults of each kind that were met while a run was under way."""
        faults = {str(fault): self.in_flight[str(fault)] for fault in ALL}
        return faults | {kind: self.done[kind] for kind in (*BY_HAND, SEVERED)}

    def lacking(self, each: int, total: int) -> list[str]:
        """Kinds of faults of which there were too few."""
        few = [f"{kind}: {number}" for kind, number in self.met().items() if number < each]
        if (number := self.in_flight.total()) < total:
            few.append(f"all: {number} of {total}")
        return [f"too few faults in flight: {what}" for what in few]


def table(tally: Tally) -> str:
    """For people."""
    kinds = [(str(f), tally.injected[str(f)], tally.in_flight[str(f)]) for f in ALL]
    kinds.append(("all", tally.injected.total(), tally.in_flight.total()))
    return "\n".join(
        [
            f"{'fault':24}{'injected':>10}{'in flight':>11}",
            *(f"{name:24}{number:10}{flying:11}" for name, number, flying in kinds),
            "",
            f"{'done to the runs':54}{'times':>8}",
            *_lines(tally.done),
            "",
            f"{tally.runs} runs, {tally.seconds:.0f} s, {len(tally.wrong)} violations",
            *_first(tally.wrong, 100),
        ]
    )


def _lines(done: Mapping[str, int]) -> Iterable[str]:
    return (f"{what:54}{number:8}" for what, number in sorted(done.items()))


def _first(lines: list[str], most: int) -> list[str]:
    more = [f"... and {len(lines) - most} more"] if len(lines) > most else []
    return [f"  {line}" for line in lines[:most]] + more
