"""Makes a run self-contained on this machine: relative paths resolved, built-in data made."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prism_api.base import parse
from prism_api.errors import DataError, FieldProblem, PrismError, SpecError, StoreError
from prism_api.exit_codes import ExitCode
from prism_api.run import PrismRun
from prism_api.uris import file_uri, scheme

_BUILTIN = {"digits": "prism_trainer.digits"}
"""Sets of inputs that a module of the trainer makes."""


def builtin_sets(run: PrismRun) -> list[str]:
    """Names of the built-in sets that a run uses; raises SpecError for an unknown one."""
    uris: list[str] = []

    def note(uri: str) -> str:
        uris.append(uri)
        return uri

    _rewrite(run.model_dump(mode="json", by_alias=True), note)
    names = sorted({_set_of(uri) for uri in uris if scheme(uri) == "builtin"})
    for name in names:
        if name not in _BUILTIN:
            remedy = f"known: {', '.join(_BUILTIN)}"
            raise SpecError([FieldProblem(f"builtin://{name}", "no such built-in set", remedy)])
    return names


def localise(run: PrismRun, base: Path, inputs: Path) -> PrismRun:
    """The same run with every URI a model hub's or an absolute file's; pure.

    `file://` paths are relative to `base`, `builtin://` ones lie below `inputs`. Raises SpecError
    for URIs that cannot be read on one machine.
    """
    document = run.model_dump(mode="json", by_alias=True, exclude_unset=True)
    problems: list[FieldProblem] = []

    def localised(uri: str) -> str:
        rest = uri.partition("://")[2]
        if scheme(uri) == "file":
            return file_uri(base / rest)
        if scheme(uri) == "builtin":
            return file_uri(inputs / rest)
        if scheme(uri) != "hf":
            remedy = "copy it to this machine and give file://PATH"
            problems.append(FieldProblem(uri, "a local run cannot read this", remedy))
        return uri

    storage = document["spec"].pop("storage", None)
    document = _rewrite(document, localised)
    if storage is not None:
        document["spec"]["storage"] = _rewrite(storage, localised)
    if problems:
        raise SpecError(problems)
    return parse(PrismRun, document)


def make_inputs(names: list[str], inputs: Path, seed: int) -> None:
    """Make the built-in sets that are not there yet; raises what went wrong."""
    for name in names:
        command = [
            sys.executable,
            "-m",
            _BUILTIN[name],
            "--out",
            str(inputs / name),
            "--seed",
            str(seed),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _error_of(done.returncode)(f"making the inputs {name!r}: {done.stderr.strip()}")


def _error_of(code: int) -> type[PrismError]:
    return {ExitCode.STORE: StoreError, ExitCode.BAD_DATA: DataError}.get(
        ExitCode(code) if code in set(ExitCode) else ExitCode.CRASHED, PrismError
    )


def _set_of(uri: str) -> str:
    return uri.partition("://")[2].partition("/")[0]


def _rewrite(value: Any, change: Callable[[str], Any]) -> Any:
    """A copy of a document with every `uri` member changed."""
    if isinstance(value, dict):
        return {
            key: change(item) if key == "uri" and isinstance(item, str) else _rewrite(item, change)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_rewrite(item, change) for item in value]
    return value
