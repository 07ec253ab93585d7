"""The CustomResourceDefinition of PrismRun, made from the models.

The models' JSON schema is turned into the structural form that Kubernetes asks for: references are
put in place, what may be null is `nullable`, bounds are those of OpenAPI 3.0. There are no
defaults: what is stored is what the user wrote (docs/design.md says why).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from prism_api.algorithms import RESOLVED_FIELDS
from prism_api.cel import rules_of
from prism_api.immutability import root_rules, spec_rules
from prism_api.names import GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from prism_api.problems import model_in
from prism_api.run import Metadata, PrismRun, Spec
from prism_api.stages import RlvrStage
from prism_api.status import PrismRunStatus

Schema = dict[str, Any]
Expand = Callable[[Schema], Schema]

_COLUMNS: Mapping[str, tuple[str, str]] = {
    "Stage": ("string", ".status.currentStage"),
    "State": ("string", ".status.state"),
    "Step": ("string", ".status.step"),
    "Reward": ("number", ".status.reward"),
    "Accuracy": ("number", ".status.accuracy"),
    "Restarts": ("integer", ".status.restarts"),
    "Age": ("date", ".metadata.creationTimestamp"),
}

_COPIED = ("pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")


def custom_resource_definition() -> Schema:
    """The whole document, as `kubectl apply` takes it."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path}
            for name, (kind, path) in _COLUMNS.items()
        ],
        "schema": {"openAPIV3Schema": root_schema()},
    }
    names = {"kind": KIND, "plural": PLURAL, "singular": KIND.lower(), "listKind": f"{KIND}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {**names, "shortNames": [SHORT_NAME], "categories": ["all", "prism"]},
            "versions": [version],
        },
    }


def root_schema() -> Schema:
    """Of a whole PrismRun: spec, status, and of the metadata what Kubernetes lets one say."""
    name = structural_schema(Metadata)["properties"]["name"]
    spec = structural_schema(Spec)
    spec["x-kubernetes-validations"] += spec_rules()
    return {
        "type": "object",
        "description": _one_line(PrismRun.__doc__ or ""),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "properties": {"name": {k: v for k, v in name.items() if k != "description"}},
            },
            "spec": spec,
            "status": structural_schema(PrismRunStatus),
        },
        "x-kubernetes-validations": root_rules(),
    }


def structural_schema(model: type[BaseModel]) -> Schema:
    """A model's fields, bounds, descriptions and cross-field rules as Kubernetes has them."""
    document = model.model_json_schema()
    models = {m.__name__: m for m in _models_in(model)}
    definitions = {**document.get("$defs", {}), model.__name__: document}

    def expand(field: Schema) -> Schema:
        if "$ref" not in field:
            return _field(field, expand)
        name = field["$ref"].rpartition("/")[2]
        whole = _object(definitions[name], models.get(name), expand)
        both = [field.get("description", ""), whole.get("description", "")]
        return {**whole, "description": _one_line(" ".join(text for text in both if text))}

    return _object(document, model, expand)


def _object(schema: Schema, model: type[BaseModel] | None, expand: Expand) -> Schema:
    """A model; or an enumeration, which pydantic defines in the same place."""
    if model is None:
        return _field(schema, expand)
    members = {name: _member(model, name, f, expand) for name, f in schema["properties"].items()}
    required = [n for n in schema.get("required", ()) if not members[n].get("nullable")]
    rules = list(rules_of(model))
    return {
        "type": "object",
        "description": _one_line(schema["description"]),
        **({"required": required} if required else {}),
        "properties": members,
        **({"x-kubernetes-validations": rules} if rules else {}),
    }


def _member(model: type[BaseModel], name: str, field: Schema, expand: Expand) -> Schema:
    said = [_default(model, name, field)]
    if field.get("live"):
        said.append("May be changed at any time.")
    schema = expand(field)
    text = _one_line(" ".join([schema["description"], *filter(None, said)]))
    return {**schema, "description": text}


def _field(field: Schema, expand: Expand) -> Schema:
    described = {"description": field["description"]} if "description" in field else {}
    if "anyOf" in field:
        (option,) = (o for o in field["anyOf"] if o.get("type") != "null")
        return _or_null(expand({**option, **described}))
    schema: Schema = {"type": _type(field), **described}
    schema |= {key: field[key] for key in (*_COPIED, "enum") if key in field}
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in field:
            schema |= {bound: field[exclusive], exclusive: True}
    if "const" in field:
        schema["enum"] = [field["const"]]
    if "items" in field:
        schema["items"] = expand(field["items"])
    if field.get("type") == "integer" and "maximum" in schema:
        schema["x-kubernetes-validations"] = [_whole_number(schema["maximum"])]
    if field.get("format") == "date-time":
        schema["format"] = "date-time"
    return schema | _values(field, expand)


def _whole_number(maximum: int) -> Schema:
    """Refuses 2.0, which JSON schema has for an integer and CEL for none, so that other rules would
    refuse it wherever they read the field, and only there."""
    message = "is written with a decimal point; give a whole number"
    return {"rule": f"self <= {maximum}", "message": message}


def _or_null(schema: Schema) -> Schema:
    """A null among choices is refused by the API server, and dropped where it is not asked for."""
    return schema if "enum" in schema else {**schema, "nullable": True}


def _type(field: Schema) -> str:
    kinds = {bool: "boolean", int: "integer", str: "string"}
    return str(field["type"]) if "type" in field else kinds[type(field["const"])]


def _values(field: Schema, expand: Expand) -> Schema:
    """Of a mapping whose keys are not fields."""
    values = field.get("additionalProperties")
    if field.get("type") != "object" or not values:
        return {}
    if values is True:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"additionalProperties": expand(values)}


def _default(model: type[BaseModel], name: str, field: Schema) -> str:
    value = field.get("default")
    if model is RlvrStage and _python_name(model, name) in RESOLVED_FIELDS:
        return "Default: by algorithm."
    if value is None or isinstance(value, dict) or value == []:
        return ""
    return f"Default: {value if isinstance(value, str) else json.dumps(value)}."


def _python_name(model: type[BaseModel], alias: str) -> str:
    return next(name for name, field in model.model_fields.items() if field.alias == alias)


def _models_in(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        if member := model_in(field.annotation):
            yield from _models_in(member)


def _one_line(text: str) -> str:
    return " ".join(text.split())
