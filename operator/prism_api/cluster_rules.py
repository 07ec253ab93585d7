"""What a valid PrismRun must also be to run in a cluster, whose pods share no disk with its author.

These are not rules of the API server: `prism validate` and the API accept the same documents. The
operator refuses such a run with the condition Accepted=False.
"""

from collections.abc import Iterator

from pydantic import BaseModel

from prism_api.errors import FieldProblem
from prism_api.problems import path_of
from prism_api.resources import DataSource, ModelSource, Storage
from prism_api.run import PrismRun
from prism_api.uris import scheme

_LOCAL_SCHEMES = frozenset({"file", "builtin"})

_Source = ModelSource | DataSource | Storage

_REMEDIES: dict[type[_Source], str] = {
    ModelSource: "give an hf://, s3:// or pvc:// uri",
    DataSource: "give an s3:// or pvc:// uri",
    Storage: "give an s3:// uri",
}


def cluster_problems(run: PrismRun) -> list[FieldProblem]:
    """Every reason why the run can only be run on one machine; empty where it can run in pods."""
    problems = [_local_uri(path, owner) for path, owner in _sources(run.spec, ("spec",))]
    if run.spec.storage is None:
        remedy = "add storage: {uri: s3://BUCKET/PREFIX}"
        problems.append(FieldProblem("spec.storage", "is missing: pods share no folder", remedy))
    return [problem for problem in problems if problem]


def _local_uri(path: tuple[str | int, ...], owner: _Source) -> FieldProblem | None:
    uri = owner.uri
    if scheme(uri) not in _LOCAL_SCHEMES:
        return None
    problem = f"{uri} is only there in local runs"
    return FieldProblem(path_of((*path, "uri")), problem, _REMEDIES[type(owner)])


def _sources(
    part: object, path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], _Source]]:
    """All models, data sets and stores of a part of the spec, with their paths."""
    if isinstance(part, tuple):
        for index, entry in enumerate(part):
            yield from _sources(entry, (*path, index))
    if not isinstance(part, BaseModel):
        return
    if isinstance(part, _Source):
        yield path, part
    for name, field in type(part).model_fields.items():
        yield from _sources(getattr(part, name), (*path, str(field.alias)))
