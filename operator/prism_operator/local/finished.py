"""The reports of finished runs, read for `prism compare`."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prism_api.errors import FieldProblem, RunUnfinished, SpecError
from prism_api.names import STAGE_ORDER, StageKind
from prism_operator.local.folder import IDENTITY_FILE
from prism_operator.report.summary import REPORT_FILE, Summary, read_summary
from prism_operator.report.text import STAGE_LABELS
from prism_store.attempts import attempt_numbers


def read_finished(folders: Sequence[Path]) -> dict[str, Summary]:
    """The figures of several runs, by labels that tell the runs apart.

    Raises SpecError for a folder that holds no run or is given twice, RunUnfinished for one that
    has no report yet, StoreError for a report that cannot be read.
    """
    return {label: _read(folder) for label, folder in zip(labels_of(folders), folders, strict=True)}


def labels_of(folders: Sequence[Path]) -> list[str]:
    """The shortest end of each path that no other one has; raises SpecError for equal paths."""
    paths = [folder.resolve().parts for folder in folders]
    for index, path in enumerate(paths):
        if path in paths[:index]:
            problem = FieldProblem(str(folders[index]), "is given twice", "leave one out")
            raise SpecError([problem])
    return ["/".join(_own_end(path, paths)) for path in paths]


def _own_end(path: tuple[str, ...], paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    ends = (path[-length:] for length in range(1, len(path)))
    return next((end for end in ends if sum(p[-len(end) :] == end for p in paths) == 1), path)


def _read(folder: Path) -> Summary:
    if not (folder / REPORT_FILE).exists():
        remedy = "give the output folder of a finished run"
        if not folder.is_dir():
            raise SpecError([FieldProblem(str(folder), "is no folder", remedy)])
        if not (folder / IDENTITY_FILE).is_file():
            raise SpecError([FieldProblem(str(folder), "holds no run", remedy)])
        raise RunUnfinished(
            f"{folder}: the run is not finished ({_standing(folder)}); wait for it, "
            f"or continue it with prism run FILE --out {folder}"
        )
    return read_summary(folder)


def _standing(folder: Path) -> str:
    """The newest report of the last stage that has started."""
    kinds = [kind for kind in STAGE_ORDER if (folder / "work" / kind).is_dir()]
    return _progress(folder / "work", kinds[-1]) if kinds else "no stage has started yet"


def _progress(work: Path, kind: StageKind) -> str:
    for number in reversed(attempt_numbers(path.name for path in (work / kind).iterdir())):
        with suppress(OSError, ValueError, KeyError):  # none yet; an older attempt may have one
            report = json.loads((work / kind / f"a{number}/progress.json").read_text())
            return f"{STAGE_LABELS[kind]}: {report['phase']} {report['step']}/{report['steps']}"
    return f"{STAGE_LABELS[kind]}: before its first step"
