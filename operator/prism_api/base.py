"""The base of every contract model and the reading of documents into one."""

import difflib
import json
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from prism_api.errors import FieldProblem, SpecError

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

    Types are strict: the text "5" is not a number. Raises SpecError with every problem found,
    each with its field path, what is wrong and what would be right.
    """
    try:
        return model.model_validate_json(
            json.dumps(document, default=str), strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        details = error.errors(include_url=False)
        # A list with a bad entry is also reported as too short: only the cause is of use.
        inner = {d["loc"][:length] for d in details for length in range(len(d["loc"]))}
        problems = [_problem(model, detail) for detail in details if detail["loc"] not in inner]
        raise SpecError(problems, source) from None


def parse_json(model: type[M], text: str | bytes, source: str) -> M:
    """Read a JSON text into a model; raises SpecError naming `source`."""
    try:
        document = json.loads(text)
    except ValueError as error:
        remedy = "the file may be truncated; write it again"
        raise SpecError([FieldProblem("$", f"is not JSON ({error})", remedy)], source) from None
    return parse(model, document, source)


def _problem(model: type[BaseModel], detail: ErrorDetails) -> FieldProblem:
    location = detail["loc"]
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, CrossFieldError):
        path = _path((*location, cause.member) if cause.member else location)
        return FieldProblem(path, cause.problem, cause.remedy)
    path = _path(location)
    if detail["type"] == "extra_forbidden":
        return FieldProblem(path, "unknown field", _known_fields(model, location))
    if detail["type"] == "missing":
        return FieldProblem(path, "is missing", "add it")
    given = _shorten(detail["input"])
    return FieldProblem(path, f"{given} is not valid", _remedy(detail))


def _path(location: tuple[int | str, ...]) -> str:
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location)
    return path.removeprefix(".") or "$"


def _shorten(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


_REMEDIES = {
    "greater_than": "give a number greater than {gt}",
    "greater_than_equal": "give a number of at least {ge}",
    "less_than": "give a number less than {lt}",
    "less_than_equal": "give a number of at most {le}",
    "literal_error": "give one of {expected}",
    "string_pattern_mismatch": "give a text that matches {pattern}",
    "string_too_long": "give at most {max_length} characters",
    "string_too_short": "give at least {min_length} characters",
    "too_short": "give at least {min_length} entries",
    "too_long": "give at most {max_length} entries",
    "finite_number": "give a finite number",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "bool_type": "give true or false",
    "string_type": "give a text (quote it if it looks like a number)",
    "model_type": "give a mapping of fields",
    "dict_type": "give a mapping of fields",
    "tuple_type": "give a list",
    "list_type": "give a list",
}


def _remedy(detail: ErrorDetails) -> str:
    template = _REMEDIES.get(detail["type"])
    return template.format(**detail.get("ctx", {})) if template else detail["msg"]


def _known_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    owner: type[BaseModel] | None = model
    for part in location[:-1]:
        owner = _member_model(owner, part) if owner else None
    if owner is None:
        return "remove it"
    known = [field.alias or name for name, field in owner.model_fields.items()]
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}known here: {', '.join(known)}"


def _member_model(owner: type[BaseModel], part: int | str) -> type[BaseModel] | None:
    if isinstance(part, int):
        return owner
    for field in owner.model_fields.values():
        if field.alias == part:
            return _model_in(field.annotation)
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a))), None)
