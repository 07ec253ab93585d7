"""Exit codes of the trainer's launcher and of `prism`; documented in README, section "Exit
codes"."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a finished process says; every code that is not listed means "crashed, try again"."""

    DONE = 0
    CRASHED = 1
    BAD_CONFIG = 64
    BAD_DATA = 65
    NON_FINITE = 70
    FOLDER_TAKEN = 73
    STORE = 74
    SAVED = 75
    """Stopped on request, which is no fault: a first one lets the stage save itself, a second one
    goes back to the last checkpoint."""


WORST_FIRST = (
    ExitCode.BAD_CONFIG,
    ExitCode.BAD_DATA,
    ExitCode.NON_FINITE,
    ExitCode.FOLDER_TAKEN,
    ExitCode.STORE,
    ExitCode.CRASHED,
    ExitCode.SAVED,
    ExitCode.DONE,
)
"""Of several that ended together: the cause comes before its consequences."""

PERMANENT = frozenset({ExitCode.BAD_CONFIG, ExitCode.BAD_DATA, ExitCode.NON_FINITE})
"""A new attempt would fail in the same way, so none is made."""

NEEDS_HELP = frozenset({ExitCode.STORE})
"""Full disk or damaged object: someone has to act first, and then the same attempt can go on."""


def meaning_of(code: int | None) -> ExitCode:
    """What a process said by its code; one of no code, or of an unknown one, crashed."""
    return ExitCode(code) if code is not None and code in set(ExitCode) else ExitCode.CRASHED
