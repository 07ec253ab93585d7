"""The base of every contract model and the reading of documents into one."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from prism_api.errors import FieldProblem, SpecError
from prism_api.normal_form import normal_form
from prism_api.problems import path_of, problem_of

M = TypeVar("M", bound="Contract")


class Contract(BaseModel):
    """camelCase in documents, snake_case in Python, unknown fields refused, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_by_name=True,
    )

    def to_json(self) -> str:
        """The document, two-space indented, in field order, ending with a newline."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


class CrossFieldError(ValueError):
    """Raised by model validators: which member is at fault, what is wrong, what would be right."""

    def __init__(self, member: str, problem: str, remedy: str) -> None:
        self.member, self.problem, self.remedy = member, problem, remedy
        super().__init__(f"{member}: {problem}; {remedy}")


def parse(model: type[M], document: Any, source: str = "") -> M:
    """Read a plain document (as from YAML or JSON) into a model.

    Types are strict: the text "5" is not a number. What the API server reads in two ways is read
    as it does (normal_form). Raises SpecError with every problem found, each with its field path,
    what is wrong and what would be right.
    """
    text = json.dumps(normal_form(model, document), default=str)
    try:
        return model.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        details = error.errors(include_url=False)
        # A list with a bad entry is also reported as too short: only the cause is of use.
        inner = {d["loc"][:length] for d in details for length in range(len(d["loc"]))}
        problems = [_problem(model, detail) for detail in details if detail["loc"] not in inner]
        raise SpecError(problems, source) from None


def parse_json(model: type[M], text: str | bytes, source: str) -> M:
    """Read a JSON text into a model; raises SpecError naming `source`."""
    if not text.strip():
        raise SpecError([FieldProblem(source, "is empty", "it may be truncated; write it again")])
    try:
        document = json.loads(text)
    except ValueError as error:
        remedy = "the file may be truncated; write it again"
        raise SpecError([FieldProblem("$", f"is not JSON ({error})", remedy)], source) from None
    return parse(model, document, source)


def _problem(model: type[BaseModel], detail: ErrorDetails) -> FieldProblem:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, CrossFieldError):
        location = (*detail["loc"], cause.member) if cause.member else detail["loc"]
        return FieldProblem(path_of(location), cause.problem, cause.remedy)
    return problem_of(model, detail)
