"""Makes a run self-contained on this machine: relative paths resolved, built-in data made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prism_api.base import parse
from prism_api.errors import FieldProblem, SpecError
from prism_api.run import PrismRun
from prism_api.uris import file_uri, local_path, scheme
from prism_operator.local.programs import run_program

_BUILTIN = {"digits": "prism_trainer.digits"}
"""Sets of inputs that a module of the trainer makes."""


def builtin_sets(run: PrismRun) -> list[str]:
    """Names of the built-in sets that a run uses; raises SpecError for an unknown one."""
    names: set[str] = set()
    problems: list[FieldProblem] = []

    def note(path: str, uri: str) -> str:
        if scheme(uri) == "builtin":
            names.add(_set_of(uri))
            if _set_of(uri) not in _BUILTIN:
                remedy = f"known: {', '.join(_BUILTIN)}"
                problems.append(FieldProblem(path, f"{uri} is of no built-in set", remedy))
        return uri

    _rewrite(run.spec.model_dump(mode="json", by_alias=True), note, "spec")
    if problems:
        raise SpecError(problems)
    return sorted(names)


def localise(run: PrismRun, base: Path, inputs: Path) -> PrismRun:
    """The same run with every URI a model hub's or an absolute file's; pure.

    `file://` paths are relative to `base`, `builtin://` ones lie below `inputs`. Raises SpecError
    for URIs that cannot be read on one machine.
    """
    document = run.model_dump(mode="json", by_alias=True, exclude_unset=True)
    problems: list[FieldProblem] = []

    def localised(path: str, uri: str) -> str:
        if scheme(uri) == "file":
            return file_uri(base / local_path(uri))
        if scheme(uri) == "builtin":
            return file_uri(inputs / uri.partition("://")[2])
        if scheme(uri) != "hf":
            remedy = "copy it to this machine and give file://PATH"
            if path.startswith("spec.storage"):
                remedy = "remove spec.storage: a local run writes where --out says"
            problems.append(FieldProblem(path, f"a local run cannot read {uri}", remedy))
        return uri

    document["spec"] = _rewrite(document["spec"], localised, "spec")
    if problems:
        raise SpecError(problems)
    return parse(PrismRun, document)


def make_inputs(
    names: list[str], inputs: Path, seed: int, stop_requested: Callable[[], bool]
) -> None:
    """Make the built-in sets that are not there yet, unless a stop is requested; raises
    ProgramError with what went wrong."""
    for name in names:
        arguments = ["--out", str(inputs / name), "--seed", str(seed)]
        run_program(_BUILTIN[name], arguments, stop_requested)


def _set_of(uri: str) -> str:
    return uri.partition("://")[2].partition("/")[0]


def _rewrite(value: Any, change: Callable[[str, str], str], path: str) -> Any:
    """A copy of a document with every `uri` member changed; `change` gets its path and itself."""
    if isinstance(value, dict):
        return {
            key: change(f"{path}.uri", item)
            if key == "uri" and isinstance(item, str)
            else _rewrite(item, change, f"{path}.{key}")
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_rewrite(item, change, f"{path}[{i}]") for i, item in enumerate(value)]
    return value
