"""A document as the Kubernetes API server stores it, so that both give the same verdict on it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def normal_form(model: type[BaseModel], document: Any) -> Any:
    """The same document without the nulls that say no more than leaving their fields out would.

    Kept are those of fields that are required, which are then refused, or that have a use for it.
    """
    if not isinstance(document, dict):
        return document
    forms = _forms(model)
    return {
        name: forms[name].of(value) if value is not None and name in forms else value
        for name, value in document.items()
        if not (value is None and name in forms and forms[name].drops_null)
    }


@dataclass(frozen=True)
class _Form:
    """What is done with the values of a field."""

    of: Callable[[Any], Any]
    drops_null: bool


@cache
def _forms(model: type[BaseModel]) -> dict[str, _Form]:
    """By the names of fields in documents; found out once, for every status goes through here."""
    return {
        field.alias or name: _Form(_form_of(field.annotation), _drops_null(field))
        for name, field in model.model_fields.items()
    }


def _drops_null(field: FieldInfo) -> bool:
    return not field.is_required() and NoneType not in get_args(field.annotation)


def _form_of(annotation: Any) -> Callable[[Any], Any]:
    kind = _without_null(annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return partial(normal_form, kind)
    if get_origin(kind) is tuple:
        entry = _form_of(get_args(kind)[0])
        return lambda value: [*map(entry, value)] if isinstance(value, list) else value
    if get_origin(kind) is dict:
        member = _form_of(get_args(kind)[1])
        return lambda value: _each(member, value) if isinstance(value, dict) else value
    return _as_it_is


def _each(form: Callable[[Any], Any], values: dict[str, Any]) -> dict[str, Any]:
    return {key: form(value) for key, value in values.items()}


def _as_it_is(value: Any) -> Any:
    return value


def _without_null(annotation: Any) -> Any:
    """What a field holds where it is not null, without its constraints."""
    if get_origin(annotation) is Annotated:
        return _without_null(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        options = [option for option in get_args(annotation) if option is not NoneType]
        return _without_null(options[0]) if len(options) == 1 else annotation
    return annotation
