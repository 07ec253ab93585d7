"""Runs in a storm of faults until each kind has fallen on them often enough; `make fault-storm`.

Two operators work on them: first both at once without any Lease, then as replicas with one Lease
that changes hands. Between them and the API server is a proxy with fifteen kinds of faults; users
delete, re-create, edit and suspend; the API server restarts. Prints a table of what happened and
every violation, and exits with 1 if there is any.
"""

import argparse
import sys
import time
from pathlib import Path

from api_cluster import ApiCluster
from storm import Storm, Tally, Weather, table

CRD = Path(__file__).parents[2] / "crds/prismruns.prism.dev.yaml"


def main() -> None:
    """Storm over two namespaces, one after the other."""
    parser = argparse.ArgumentParser(prog="make fault-storm", description=__doc__)
    parser.add_argument("--each", type=int, default=500, help="faults of each kind (500)")
    parser.add_argument("--total", type=int, default=10_000, help="faults of all kinds (10000)")
    parser.add_argument("--runs", type=int, default=20, help="per wave (20)")
    parser.add_argument("--waves", type=int, default=60, help="at most, of each half (60)")
    parser.add_argument("--half", choices=["free", "leased"], help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logs", type=Path, help="folder for the operators' logs")
    asked = parser.parse_args()
    weather = Weather(
        seed=asked.seed, runs_per_wave=asked.runs, deed_seconds=0.05, restart_share=3.0
    )
    halves = {"free": False, "leased": True}
    halves = {asked.half: halves[asked.half]} if asked.half else halves
    share = len(halves)
    total = Tally()
    with ApiCluster(crds=[CRD]) as cluster:
        for name, has_lease in halves.items():
            storm = Storm(cluster, weather, has_lease=has_lease, logs=asked.logs)
            with storm.raging():
                for number in range(asked.waves):
                    began, known = time.monotonic(), len(storm.tally.wrong)
                    storm.wave(number)
                    counted = storm.counted()
                    rarest, times = min(counted.met().items(), key=lambda kind: kind[1])
                    say(
                        f"{name} wave {number}: {time.monotonic() - began:.0f} s, "
                        f"{counted.in_flight.total()} faults in flight, the rarest: {rarest} "
                        f"{times}, {len(storm.tally.wrong)} violations"
                    )
                    for what in storm.tally.wrong[known:]:
                        say(f"  {what}")
                    if not counted.lacking(-(-asked.each // share), -(-asked.total // share)):
                        break
            total.add(storm.tally)
    total.wrong += total.lacking(asked.each, asked.total)
    say("\n" + table(total))
    sys.exit(bool(total.wrong))


def say(text: str) -> None:
    """Print at once, as the whole takes minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
