"""What of a PrismRun may still be changed once training has started, as transition rules in CEL."""

from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prism_api.problems import model_in
from prism_api.resources import LIVE
from prism_api.run import Spec

_SIDES = ("self", "oldSelf")
_STARTED = "oldSelf.?status.?startTime.hasValue()"
_MESSAGE = "cannot be changed once training has started (status.startTime); make a new PrismRun"


def is_live(field: FieldInfo) -> bool:
    """Whether a field may be changed at any time."""
    return bool(field.json_schema_extra == LIVE.json_schema_extra)


def root_rules() -> list[dict[str, str]]:
    """Of the whole object, for only its root sees both spec and status: a rule per field, so that
    a refusal names the field."""
    return [
        {
            "rule": f"!{_STARTED} || {_unchanged(path) if whole else _as_present(path)}",
            "message": _MESSAGE,
            "fieldPath": f".{'.'.join(path)}",
        }
        for path, whole in frozen_paths(Spec, ["spec"])
    ]


def _as_present(path: list[str]) -> str:
    present = f"?{'.?'.join(path)}.hasValue()"
    return f"self.{present} == oldSelf.{present}"


def _unchanged(path: list[str]) -> str:
    """Values are compared by plain paths: the API server estimates a rule's cost by the lengths
    that the schema allows there. A null is not the same as an absent field."""
    name, parent = ".".join(path), f"?{'.?'.join(path[:-1])}.hasValue()"
    new, old = (f"(self.{parent} && has(self.{name}))".replace("self", s) for s in _SIDES)
    return f"{new} == {old} && (!{new} || self.{name} == oldSelf.{name})"


def spec_rules() -> list[dict[str, str]]:
    """Of `spec`, started or not."""
    return [
        {
            "rule": "!oldSelf.?cancel.orValue(false) || self.?cancel.orValue(false)",
            "message": "cannot be undone; make a new PrismRun",
            "fieldPath": ".cancel",
        }
    ]


def frozen_paths(model: type[BaseModel], at: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Paths of the largest parts that hold nothing live, and of optional parts that hold something
    live beside other fields.

    True: all of it must stay. False: only whether it is there (a stage with workers of its own,
    were they all defaults, does not take the run's).
    """
    for field in model.model_fields.values():
        member, path = model_in(field.annotation), [*at, str(field.alias)]
        if is_live(field):
            continue
        if not (member and _has_live_parts(member)):
            yield path, True
            continue
        if field.default is None:
            yield path, False
        yield from frozen_paths(member, path)


def _has_live_parts(model: type[BaseModel]) -> bool:
    return any(
        is_live(field) or ((member := model_in(field.annotation)) and _has_live_parts(member))
        for field in model.model_fields.values()
    )
