"""How a process of a stage ended, in a file that the launcher reads: torchrun hides exit codes."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from prism_api.exit_codes import WORST_FIRST, ExitCode

OUTCOME_FILE = "outcome.json"
"""The launcher's last words; each process leaves its own, by rank."""

_RESERVE_FILE = "reserve"
_RESERVE_BYTES = 1 << 16


@dataclass(frozen=True)
class Outcome:
    """Exit code of the contract, and what to tell the user."""

    code: ExitCode
    message: str = ""


def write_outcome(folder: Path, rank: int, outcome: Outcome) -> None:
    """Leave this process's outcome; atomically, as the process may be killed any time."""
    write_last_words(folder, f"outcome-{rank}.json", outcome)


def reserve_space(folder: Path) -> None:
    """Take the space that outcomes need while there is some: a full disk is one of them."""
    (folder / _RESERVE_FILE).write_bytes(os.urandom(_RESERVE_BYTES))


def write_last_words(folder: Path, name: str, outcome: Outcome) -> None:
    """Write an outcome, into the reserved space if there is no other."""
    path = folder / name
    temporary = path.with_suffix(".tmp")
    text = json.dumps(asdict(outcome))
    try:
        temporary.write_text(text)
    except OSError:
        (folder / _RESERVE_FILE).unlink(missing_ok=True)
        temporary.write_text(text)
    os.replace(temporary, path)


def note_start(folder: Path, rank: int) -> None:
    """Leave word that this process runs."""
    with suppress(OSError):
        (folder / f"started-{rank}").touch()


def has_started(folder: Path) -> bool:
    """Whether any process of the attempt has come to run."""
    return any(folder.glob("started-*"))


def forget_earlier(folder: Path) -> None:
    """Delete what processes of an earlier attempt left."""
    for path in [folder / OUTCOME_FILE, *folder.glob("outcome-*.json"), *folder.glob("started-*")]:
        path.unlink(missing_ok=True)


def combined_outcome(folder: Path, ranks: Iterable[int]) -> Outcome:
    """The outcome of these processes together: the cause rather than its consequences.

    A process without an outcome was killed or crashed hard; it counts as crashed unless another one
    gives the reason.
    """
    outcomes = []
    for rank in ranks:
        path = folder / f"outcome-{rank}.json"
        if path.is_file():
            document = json.loads(path.read_text())
            outcomes.append(Outcome(ExitCode(document["code"]), document["message"]))
        else:
            outcomes.append(
                Outcome(ExitCode.CRASHED, f"process {rank} ended without a word (killed?)")
            )
    return min(outcomes, key=lambda outcome: WORST_FIRST.index(outcome.code))
