"""Every rule of the contract's models, read from the models: what a table of invalid documents has
to cover."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import prism_api
from prism_api.patterns import IN_WORDS


@dataclass(frozen=True)
class FieldRule:
    """One constraint of one field, at the class that declares it."""

    owner: str
    field: str
    remedy: str
    """Part of the advice that its violation gives."""


def models_in(root: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The model and all that its fields hold, by name."""
    found = {root.__name__: root}
    for field in root.model_fields.values():
        for member in _models_of(field.annotation):
            if member.__name__ not in found:
                found |= models_in(member)
    return found


def field_rules(root: type[BaseModel]) -> set[FieldRule]:
    """Bounds, lengths, patterns and choices of all fields of a document."""
    return {
        FieldRule(declared_by(model, name), name, remedy)
        for model in models_in(root).values()
        for name, field in model.model_fields.items()
        for remedy in _remedies(field)
    }


def declared_by(model: type[BaseModel], name: str) -> str:
    """The class whose declaration of the field counts."""
    return next(c.__name__ for c in model.__mro__ if name in inspect.get_annotations(c))


def owner_and_field(root: type[BaseModel], path: str) -> tuple[str, str] | None:
    """Which class declares the field at a path of the document; none: there is no such field."""
    model, name = root, ""
    for part in re.findall(r"[^.\[\]]+", path):
        if part.isdigit():
            continue
        if name:
            model = next(_models_of(model.model_fields[name].annotation), model)
        by_alias = {f.alias or n: n for n, f in model.model_fields.items()}
        if part not in by_alias:
            return None
        name = by_alias[part]
    return (declared_by(model, name), name) if name else None


def cross_field_rules() -> list[list[str]]:
    """The fixed texts of what each `raise CrossFieldError` of the contract says is wrong."""
    rules = []
    for file in sorted(Path(prism_api.__path__[0]).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CrossFieldError":
                texts = [n.value for n in ast.walk(node.args[1]) if isinstance(n, ast.Constant)]
                rules.append([text for text in texts if isinstance(text, str) and text.strip()])
    return rules


def _remedies(field: FieldInfo) -> Iterator[str]:
    yield from _of_metadata(field.metadata, field.annotation)
    yield from _of_annotation(field.annotation)


def _of_annotation(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield f"'{get_args(annotation)[0]}'".replace("'1'", "1")
    elif get_origin(annotation) is Annotated:
        kind, *metadata = get_args(annotation)
        yield from _of_annotation(kind)
        for item in metadata:
            yield from _of_metadata(item.metadata if isinstance(item, FieldInfo) else [item], kind)
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _of_annotation(part)


def _of_metadata(metadata: list[Any], kind: Any) -> Iterator[str]:
    for item in metadata:
        match item:
            case at.Gt(gt=bound):
                yield f"greater than {bound}"
            case at.Ge(ge=bound):
                yield f"at least {bound}"
            case at.Lt(lt=bound):
                yield f"less than {bound}"
            case at.Le(le=bound):
                yield f"at most {bound}"
            case at.MinLen(min_length=length):
                yield f"at least {length} {'characters' if kind is str else 'entries'}"
            case at.MaxLen(max_length=length):
                yield f"at most {length} {'characters' if kind is str else 'entries'}"
            case _ if getattr(item, "pattern", None):
                yield IN_WORDS[item.pattern]
            case _:
                raise AssertionError(f"a constraint that no test knows: {item!r}")


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_of(part)
