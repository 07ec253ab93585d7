"""Stops the operator dead before and after each single write that it makes in a run of three stages
with rollouts, and starts it again; then at random moments by SIGKILL of a process of its own;
`make crash-sweep`.

Every run must end in the state of an undisturbed one, with the same children, none of them created
twice and none left over, and no pod alive. Prints every point that does not.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from api_cluster import ApiCluster
from crash_points import Point, Theatre
from swept_runs import SCENARIOS, attempts_of, differences, player_of

CRD = Path(__file__).parents[2] / "crds/prismruns.prism.dev.yaml"


def main() -> None:
    """Sweep and kill; exits with 1 if any run ended otherwise."""
    parser = argparse.ArgumentParser(prog="make crash-sweep", description=__doc__)
    parser.add_argument("--kills", type=int, default=66, help="by SIGKILL, of all scenarios (66)")
    parser.add_argument("--seed", type=int, default=0, help="of their moments (0)")
    parser.add_argument("--at-once", type=int, default=3, help="operators at a time (3)")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="default: all")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # attempts fail on purpose
    with ApiCluster(crds=[CRD]) as cluster, player_of(cluster) as player:
        theatre = Theatre(cluster, player, asked.at_once)
        names = asked.scenario or list(SCENARIOS)
        found = [check(theatre, name, asked.kills // len(names), asked.seed) for name in names]
        for trouble in player.record.troubles:
            say(f"the player had trouble: {trouble}")
    sys.exit(not all(found) or bool(player.record.troubles))


def check(theatre: Theatre, scenario: str, kills: int, seed: int) -> bool:
    """Whether all runs of a scenario end like an undisturbed one."""
    calm, again = theatre.calm(scenario), theatre.calm(scenario)
    say(f"\n{scenario}: {len(calm.writes)} writes in {calm.seconds:.1f} s undisturbed")
    if attempts_of(calm.outcome) != SCENARIOS[scenario].attempts:
        say(f"the undisturbed run is not as it was meant: {attempts_of(calm.outcome)}")
        return False
    if lost := differences(calm.outcome, again.outcome):
        say("two undisturbed runs differ already:\n  " + "\n  ".join(lost))
        return False
    swept = report("writes", theatre.sweep(scenario, calm), len(calm.writes))
    if not kills:
        return swept
    # A few moments may come when the run is over.
    killed = report("SIGKILL", theatre.kills(scenario, calm, kills, seed), kills - kills // 6)
    return swept and killed


def report(how: str, points: Iterable[Point], least: int) -> bool:
    """Print what came of points; whether so many were met, and all runs ended as they should."""
    started, met, same, runs = time.monotonic(), 0, 0, 0
    for point in points:
        runs, met, same = runs + 1, met + bool(point.where), same + (not point.lost)
        where = point.where or "not met"
        if point.lost:
            say(f"  DIFFERS {where}\n    " + "\n    ".join(point.lost))
        elif sys.stdout.isatty():
            say(f"  {met:4d} {point.seconds:5.1f} s  {where}")
    seconds = time.monotonic() - started
    say(f"  {how:8} {met:4d} points, {same:4d} of {runs} runs end the same, {seconds:4.0f} s")
    return met >= least and same == runs


def say(text: str) -> None:
    """Print at once, as the whole takes minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
