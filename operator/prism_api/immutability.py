"""What of a PrismRun may still be changed once training has started, as transition rules in CEL."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prism_api.problems import model_in
from prism_api.resources import LIVE
from prism_api.run import Spec

_STARTED = "oldSelf.?status.?startTime.hasValue()"
_MESSAGE = "these cannot be changed once training has started, make a new PrismRun"


@dataclass(frozen=True)
class Frozen:
    """A part of the document that must stay."""

    path: str
    """Dotted, from the document's root."""
    unchanged: str
    """CEL: whether it did."""


def is_live(field: FieldInfo) -> bool:
    """Whether a field may be changed at any time."""
    return bool(field.json_schema_extra == LIVE.json_schema_extra)


def root_rules() -> list[dict[str, str]]:
    """Of the whole object, for only its root sees both spec and status.

    One rule for all fields, which begins with what ends it for every write of the status: a rule
    per field took the API server 50 ms each time. The message names every field that changed.
    """
    parts = frozen_parts()
    unchanged = " && ".join(part.unchanged for part in parts)
    changed = "".join(f" + ({part.unchanged} ? '' : ' {part.path}')" for part in parts)
    return [
        {
            "rule": f"!{_STARTED} || self.spec == oldSelf.spec || ({unchanged})",
            "message": _MESSAGE,
            "messageExpression": f"'{_MESSAGE}:'{changed}",
        }
    ]


def spec_rules() -> list[dict[str, str]]:
    """Of `spec`, started or not."""
    return [
        {
            "rule": "!oldSelf.?cancel.orValue(false) || self.?cancel.orValue(false)",
            "message": "cannot be undone; make a new PrismRun",
            "fieldPath": ".cancel",
        }
    ]


def frozen_parts() -> list[Frozen]:
    """The largest parts that hold nothing live, and of optional parts that hold something live
    whether they are there: a stage with workers of its own, were they all defaults, does not take
    the run's."""
    return list(_frozen(Spec, ["spec"]))


def _frozen(model: type[BaseModel], at: list[str]) -> Iterator[Frozen]:
    for field in model.model_fields.values():
        member, path = model_in(field.annotation), [*at, str(field.alias)]
        if is_live(field):
            continue
        if not (member and _has_live_parts(member)):
            same = _same_number if _is_plain_number(field) else _same_value
            yield Frozen(".".join(path), same(path))
            continue
        if field.default is None:
            present = f"?{'.?'.join(path)}.hasValue()"
            yield Frozen(".".join(path), f"self.{present} == oldSelf.{present}")
        yield from _frozen(member, path)


def _same_number(path: list[str]) -> str:
    value = "?" + ".?".join(path)
    return f"self.{value} == oldSelf.{value}"


def _same_value(path: list[str]) -> str:
    """Values are compared by plain paths: the API server estimates a rule's cost by the lengths
    that the schema allows there. A null is not the same as an absent field."""
    name, parent = ".".join(path), f"?{'.?'.join(path[:-1])}.hasValue()"
    new, old = (f"(self.{parent} && has(self.{name}))".replace("self", s) for s in _SIDES)
    return f"({new} == {old} && (!{new} || self.{name} == oldSelf.{name}))"


_SIDES = ("self", "oldSelf")


def _is_plain_number(field: FieldInfo) -> bool:
    """Whether it is a number or a truth for which null says no more than leaving it out."""
    kinds = {getattr(kind, "__origin__", kind) for kind in get_args(field.annotation)}
    kinds = kinds - {type(None)} or {field.annotation}
    means_more = bool(get_args(field.annotation)) and field.default is not None
    return kinds <= {int, float, bool} and not means_more


def _has_live_parts(model: type[BaseModel]) -> bool:
    return any(
        is_live(field) or ((member := model_in(field.annotation)) and _has_live_parts(member))
        for field in model.model_fields.values()
    )
