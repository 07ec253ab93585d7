"""Says what is wrong with a field and what would be right, in words."""

import difflib
import json
import re
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from prism_api.errors import FieldProblem
from prism_api.patterns import IN_WORDS


def problem_of(model: type[BaseModel], detail: ErrorDetails) -> FieldProblem:
    """What pydantic found wrong with one field of a document, as the contract says it."""
    location = detail["loc"]
    path = path_of(location)
    if detail["type"] == "extra_forbidden":
        return FieldProblem(path, "unknown field", _known_fields(model, location))
    if detail["type"] == "missing":
        return FieldProblem(path, "is missing", "add it")
    given = _shorten(detail["input"])
    return FieldProblem(path, f"{given} is not valid", _remedy(model, detail))


def path_of(location: tuple[int | str, ...]) -> str:
    """A place in a document as its author would write it; the document itself is `$`."""
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
    "dict_type": "give a mapping of fields",
    "tuple_type": "give a list",
    "list_type": "give a list",
}


def _remedy(model: type[BaseModel], detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "string_pattern_mismatch":
            return f"give {IN_WORDS[context['pattern']]}"
        case "literal_error":
            expected = context["expected"]
            return f"give one of {expected}" if " or " in expected else f"give {expected}"
        case "model_type":
            return "give a mapping of fields" + _needed_fields(model, detail["loc"])
        case "int_type" | "float_type" if _is_quoted_number(detail["input"]):
            return f"{_REMEDIES[detail['type']]}, without quotes"
    template = _REMEDIES.get(detail["type"])
    return template.format(**context) if template else detail["msg"]


def _is_quoted_number(value: Any) -> bool:
    return (
        isinstance(value, str)
        and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value.lower()) is not None
    )


def _needed_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    owner = _model_at(model, location)
    fields = owner.model_fields.items() if owner else ()
    needed = [field.alias or name for name, field in fields if field.is_required()]
    return f" ({', '.join(needed)})" if needed else ""


def _known_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    owner = _model_at(model, location[:-1])
    if owner is None:
        return "remove it"
    known = [field.alias or name for name, field in owner.model_fields.items()]
    written = str(location[-1])
    meant = [name for name in known if _initials(name) == written]
    meant += difflib.get_close_matches(written, known, n=1)
    return f"did you mean {meant[0]}?" if meant else f"known here: {', '.join(known)}"


def _initials(name: str) -> str:
    """`lr` of learningRate."""
    return name[0] + "".join(filter(str.isupper, name)).lower()


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    owner: type[BaseModel] | None = model
    for part in location:
        owner = _member_model(owner, part) if owner else None
    return owner


def _member_model(owner: type[BaseModel], part: int | str) -> type[BaseModel] | None:
    if isinstance(part, int):
        return owner
    for field in owner.model_fields.values():
        if field.alias == part:
            return model_in(field.annotation)
    return None


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field of this type holds, itself, as an option or as an entry."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := model_in(a))), None)
