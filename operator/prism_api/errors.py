"""Errors of the platform.

PrismError
|-- SpecError        a PrismRun or StageConfig that cannot be used (exit 64)
|-- DataError        a data set, row or image that cannot be used (exit 65)
|-- NonFiniteLoss    loss or gradient is not finite (exit 70)
|-- RolloutError     rollout servers that do not answer (exit 1: tried again)
|-- RendezvousError  pods of a stage that do not find each other (exit 1: tried again)
|-- FolderTaken      the output folder holds something else (exit 73)
|-- StoreError       an object that is missing, damaged or cannot be written (exit 74)
|-- RunUnfinished    a run that has no report yet (exit 75)
`-- ProgramError     what another program of ours said when it failed (its own code)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prism_api.exit_codes import ExitCode


class PrismError(Exception):
    """Base of all errors that name the thing, what is wrong and what to do."""

    exit_code: ExitCode = ExitCode.CRASHED


@dataclass(frozen=True)
class FieldProblem:
    """One thing that is wrong with one field."""

    path: str
    """Dotted path from the document's root, as the user wrote it:
    `spec.stages.sft.learningRate`."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"


class SpecError(PrismError):
    """A document that does not follow the contract; carries every problem that was found."""

    exit_code = ExitCode.BAD_CONFIG

    def __init__(self, problems: Sequence[FieldProblem], source: str = "") -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems]
        super().__init__("\n".join([f"{source} is not valid:", *lines] if source else lines))


class DataError(PrismError):
    """A data set, row or image that cannot be used; names file and row."""

    exit_code = ExitCode.BAD_DATA


class NonFiniteLoss(PrismError):
    """A loss or gradient that is not finite, raised before the optimizer step."""

    exit_code = ExitCode.NON_FINITE


class RolloutError(PrismError):
    """Rollout servers that failed for longer than is forgiven; names server and operation."""


class RendezvousError(PrismError):
    """Pods of a stage that do not find each other in time; names where they were to meet."""


class FolderTaken(PrismError):
    """A folder or store that holds something else, or stages of other settings; nothing in it was
    touched."""

    exit_code = ExitCode.FOLDER_TAKEN


class StoreError(PrismError):
    """An object that is missing, damaged or could not be written; names it."""

    exit_code = ExitCode.STORE


class RunUnfinished(PrismError):
    """A run that has to be finished before what was asked for can be done."""

    exit_code = ExitCode.SAVED


class ProgramError(PrismError):
    """What another program of ours said when it failed; carries the code that it ended with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = ExitCode(code) if code in set(ExitCode) else ExitCode.CRASHED
