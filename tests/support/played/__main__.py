"""`python -m played`: the player as a process of its own."""

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

from played.api import from_kubeconfig
from played.player import Player
from played.record import Record
from played.script import Script, all_well, bad_days
from prism_api.reporting import TRAINER_PORT

_SCRIPTS: dict[str, Callable[[argparse.Namespace], Script]] = {
    "all-well": lambda asked: all_well(asked.phase_s, asked.run_s),
    "bad-days": lambda asked: bad_days(asked.seed, asked.phase_s),
}


def main() -> None:
    """Play until SIGTERM or SIGINT."""
    asked = _arguments().parse_args()
    url, credentials = from_kubeconfig(asked.kubeconfig)
    with contextlib.ExitStack() as stack:
        # A line at a time, so that the file can be read while it grows.
        file = stack.enter_context(asked.record.open("w", buffering=1)) if asked.record else None
        script = _SCRIPTS[asked.script](asked)
        where = {"namespace": asked.namespace, "port": asked.port}
        asyncio.run(_play(Player(url, credentials, script, record=Record(file), **where)))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m played", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--namespace", help="default: all")
    parser.add_argument("--script", choices=_SCRIPTS, default="all-well")
    parser.add_argument("--phase-s", type=float, default=0.05, help="seconds of a pod's phase")
    parser.add_argument("--run-s", type=float, help="seconds of training (all-well)")
    parser.add_argument("--seed", type=int, default=0, help="of bad-days")
    parser.add_argument("--port", type=int, default=TRAINER_PORT, help="of GET /progress")
    parser.add_argument("--record", type=Path, help="file for what was seen and sent, JSON lines")
    return parser


async def _play(player: Player) -> None:
    playing = asyncio.create_task(player.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await playing


if __name__ == "__main__":
    main()
