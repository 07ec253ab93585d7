"""docs/fields.md: every field of a PrismRun, written from the contract's models."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml

from prism_api.algorithms import resolve_rlvr
from prism_api.patterns import IN_WORDS
from prism_api.reinforcement import Algorithm
from prism_api.resources import DataSource
from prism_api.run import PrismRun
from prism_api.stages import RlvrStage

_Schema = Mapping[str, Any]
"""JSON schema of a model or of a field, as pydantic makes it."""

_TITLE = """# Fields of a PrismRun

Defaults are the published values where there are any. A field whose default is *absent* may be left
out or null: nothing is set, or what its description says. `make fields` writes this page from the
models in [prism_api](../operator/prism_api).

Once training has started (`status.startTime` is set), Kubernetes refuses changes of all fields but
these:"""

_ALGORITHMS = "Defaults by algorithm"
_ALGORITHMS_NOTE = "What `spec.stages.rlvr` takes with all its other fields at their defaults."

_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
}

_BOUNDS = {
    "minimum": "at least {:.10g}",
    "exclusiveMinimum": "greater than {:.10g}",
    "maximum": "at most {:.10g}",
    "exclusiveMaximum": "less than {:.10g}",
    "minItems": "at least {} entries",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "maxItems": "at most {} entries",
}


def field_reference() -> str:
    """The page in Markdown: a section per part of the document, in the document's order.

    A part that occurs in several places has one section, which names all of them.
    """
    root: _Schema = PrismRun.model_json_schema()
    models: dict[str, _Schema] = {**root["$defs"], "PrismRun": root}
    places: dict[str, list[str]] = {}
    for model, path in _places(models, "PrismRun", ""):
        places.setdefault(model, []).append(path)
    parts = [f"{_TITLE}\n{_live_fields(models, places)}."]
    for model, paths in places.items():
        parts.append(_section(models, model, places))
        if model == RlvrStage.__name__:
            parts.append(_algorithm_section(f"{paths[0]}: {_ALGORITHMS.lower()}"))
    return "\n\n".join(parts) + "\n"


def _places(models: Mapping[str, _Schema], model: str, path: str) -> Iterator[tuple[str, str]]:
    """Every model with every path at which a document may hold one."""
    yield model, path
    for name, field in models[model]["properties"].items():
        for option in _options(field):
            member, entry = option.get("items", option), "[]" if "items" in option else ""
            if "$ref" in member:
                yield from _places(models, _target(member), f"{path}.{name}{entry}".lstrip("."))


def _live_fields(models: Mapping[str, _Schema], places: Mapping[str, list[str]]) -> str:
    live = [
        f"`{path}.{name}`"
        for model, paths in places.items()
        for path in paths
        for name, field in models[model]["properties"].items()
        if field.get("live")
    ]
    return ", ".join(live)


def _section(models: Mapping[str, _Schema], model: str, places: Mapping[str, list[str]]) -> str:
    schema, (first, *others) = models[model], places[model]
    lines = [f"## {first or 'The document'}", "", _one_line(schema["description"])]
    if others:
        lines[-1] += f" The same fields stand at {', '.join(f'`{path}`' for path in others)}."
    lines += ["", "| field | type | default | description |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        kind = " or ".join(_type(option, places) for option in _options(field))
        default = _default(models, model, name, first)
        lines.append(f"| `{name}` | {kind} | {default} | {_one_line(field['description'])} |")
    return "\n".join(lines)


def _options(field: _Schema) -> list[_Schema]:
    """What the field may hold beside null."""
    return [o for o in field.get("anyOf", [field]) if o.get("type") != "null"]


def _target(reference: _Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _type(option: _Schema, places: Mapping[str, list[str]]) -> str:
    """Kind of value, choices and bounds, in words."""
    if "$ref" in option:
        return f"[mapping](#{_anchor(places[_target(option)][0])})"
    if "enum" in option or "const" in option:
        return ", ".join(f"`{choice}`" for choice in option.get("enum", [option.get("const")]))
    if option["type"] == "object":
        return "mapping" if option.get("additionalProperties") is True else "mapping of texts"
    if option["type"] == "array":
        kind = f"list of {_type(option['items'], places)}"
    elif "pattern" in option:
        kind = IN_WORDS[option["pattern"]]
    else:
        kind = _TYPES[option["type"]]
    bounds = [words.format(option[key]) for key, words in _BOUNDS.items() if key in option]
    return ", ".join([kind, *bounds])


def _default(models: Mapping[str, _Schema], model: str, name: str, path: str) -> str:
    schema = models[model]
    field = schema["properties"][name]
    if model == RlvrStage.__name__ and name in _by_algorithm():
        return f"[by algorithm](#{_anchor(f'{path}: {_ALGORITHMS.lower()}')})"
    if name in schema.get("required", ()):
        return "required"
    value = field.get("default", {})  # only mappings have a factory, which gives an empty one
    if "$ref" in field and value == _defaults(models[_target(field)]):
        return "its defaults"
    return _value(value)


def _defaults(schema: _Schema) -> dict[str, Any]:
    return {name: field.get("default") for name, field in schema["properties"].items()}


def _algorithm_section(title: str) -> str:
    algorithms = get_args(Algorithm)
    lines = [f"### {title}", "", _ALGORITHMS_NOTE, ""]
    lines += [f"| field | {' | '.join(algorithms)} |", "|---" * (1 + len(algorithms)) + "|"]
    for name, values in _by_algorithm().items():
        cells = [_value(values[algorithm]) for algorithm in algorithms]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_algorithm() -> dict[str, dict[str, Any]]:
    """Values of the RLVR fields whose default the algorithm decides, by field and algorithm."""
    data = DataSource(uri="builtin://digits/rlvr.parquet")
    written = {a: RlvrStage(algorithm=a, data=data) for a in get_args(Algorithm)}
    before = {a: stage.model_dump(mode="json", by_alias=True) for a, stage in written.items()}
    resolved = {a: resolve_rlvr(stage) for a, stage in written.items()}
    after = {a: stage.model_dump(mode="json", by_alias=True) for a, stage in resolved.items()}
    names = [n for n in before["grpo"] if any(before[a][n] != after[a][n] for a in written)]
    return {name: {a: after[a][name] for a in written} for name in names}


def _value(value: Any) -> str:
    """As it would be written in YAML."""
    if value is None:
        return "absent"
    if isinstance(value, list | dict):
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip()
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return f"`{re.sub(r'e-0', 'e-', text)}`"


def _anchor(title: str) -> str:
    """As GitHub derives it from a heading."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    sys.stdout.write(field_reference())
