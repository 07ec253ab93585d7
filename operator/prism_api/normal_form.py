"""A document as the Kubernetes API server stores it, so that both give the same verdict on it."""

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
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    return {
        name: _value(fields[name].annotation, value) if name in fields else value
        for name, value in document.items()
        if not (value is None and name in fields and _drops_null(fields[name]))
    }


def _drops_null(field: FieldInfo) -> bool:
    return not field.is_required() and NoneType not in get_args(field.annotation)


def _value(annotation: Any, value: Any) -> Any:
    kind = _without_null(annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return normal_form(kind, value)
    if get_origin(kind) is tuple and isinstance(value, list):
        return [_value(get_args(kind)[0], entry) for entry in value]
    if get_origin(kind) is dict and isinstance(value, dict):
        return {key: _value(get_args(kind)[1], entry) for key, entry in value.items()}
    return value


def _without_null(annotation: Any) -> Any:
    """What a field holds where it is not null, without its constraints."""
    if get_origin(annotation) is Annotated:
        return _without_null(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        options = [option for option in get_args(annotation) if option is not NoneType]
        return _without_null(options[0]) if len(options) == 1 else annotation
    return annotation
