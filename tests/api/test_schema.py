"""The CRD is what the models say, and keeps to what Kubernetes takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract_rules import cross_field_rules
from prism_api.immutability import frozen_parts
from prism_api.names import GROUP, PLURAL
from prism_api.problems import model_in
from prism_api.resources import LARGEST
from prism_api.run import Spec
from prism_api.schema import custom_resource_definition, root_schema
from prism_operator.crd import crd_yaml
from schema_cases import a_full_document, places, refused, right, rules

FILE = Path(__file__).parents[2] / "crds" / f"{PLURAL}.{GROUP}.yaml"
ROOT = root_schema()
SPEC = ROOT["properties"]["spec"]
PLACES = {place.path: place.schema for place in places(SPEC, "spec")}

ALLOWED = {
    *("type", "description", "properties", "items", "additionalProperties", "required", "enum"),
    *("nullable", "format", "pattern", "minimum", "maximum", "exclusiveMinimum"),
    *("exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("x-kubernetes-validations", "x-kubernetes-preserve-unknown-fields"),
}


def all_schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for part in (*schema.get("properties", {}).values(), schema.get("items")):
        if part:
            yield from all_schemas(part)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from all_schemas(schema["additionalProperties"])


def fields_of(model: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every field of a model and of those below it, by its path in a document."""
    for field in model.model_fields.values():
        here = f"{path}.{field.alias}"
        yield here, field
        if member := model_in(field.annotation):
            entry = "[0]" if "tuple" in str(field.annotation) else ""
            yield from fields_of(member, here + entry)


def test_the_file_is_what_the_models_say() -> None:
    assert FILE.read_text() == crd_yaml()
    assert yaml.safe_load(FILE.read_text()) == custom_resource_definition()


def test_only_structural_keywords_are_used_and_everything_has_a_type() -> None:
    schemas = list(all_schemas(ROOT))

    assert len(schemas) > 300
    assert {key for schema in schemas for key in schema} <= ALLOWED
    assert all("type" in schema for schema in schemas)


def test_nothing_has_a_default_for_what_is_stored_is_what_was_written() -> None:
    assert not [schema for schema in all_schemas(ROOT) if "default" in schema]


def test_unknown_fields_are_kept_in_pod_templates_only() -> None:
    free = {path for path, s in PLACES.items() if s.get("x-kubernetes-preserve-unknown-fields")}

    assert free == {
        *("spec.workers.template", "spec.rollout.template"),
        *(f"spec.stages.{kind}.workers.template" for kind in ("sft", "align", "rlvr")),
        *(f"spec.stages.{kind}.rollout.template" for kind in ("align", "rlvr")),
    }


def test_every_field_of_the_models_is_there_and_nothing_else_is() -> None:
    fields = dict(fields_of(Spec, "spec"))

    assert len(fields) > 200
    assert {path for path in PLACES if not path.endswith("]")} == set(fields)


def test_every_description_holds_the_docstring() -> None:
    for path, field in fields_of(Spec, "spec"):
        assert " ".join(field.description.split()) in PLACES[path]["description"], path


def test_descriptions_say_the_default_and_what_the_algorithm_decides() -> None:
    assert PLACES["spec.stages.sft.batchSize"]["description"].endswith("Default: 16.")
    assert PLACES["spec.stages.rlvr.clipLow"]["description"].endswith("Default: by algorithm.")
    assert PLACES["spec.suspend"]["description"].endswith("May be changed at any time.")


def test_every_whole_number_of_a_spec_has_bounds() -> None:
    whole = {path: s for path, s in PLACES.items() if s["type"] == "integer"}

    assert len(whole) > 60
    assert [
        p for p, s in whole.items() if not 0 <= s["minimum"] < s["maximum"] <= LARGEST + 1
    ] == []


def test_every_constraint_has_a_value_that_breaks_it() -> None:
    keywords = {"minimum", "maximum", "enum", "pattern", "minLength", "maxLength", "minItems"}
    for place in places(SPEC, "spec"):
        broken = {constraint for constraint, _ in refused(place)}
        assert keywords & set(place.schema) <= broken
        assert "type" in broken
        assert ("required" in broken) == place.required


def test_values_that_are_to_be_right_keep_the_bounds() -> None:
    for path, schema in PLACES.items():
        for value in right(schema):
            if isinstance(value, float | int) and not isinstance(value, bool):
                assert schema["minimum"] <= value <= schema.get("maximum", value), path


def test_the_full_document_holds_every_part() -> None:
    parts = {path for path, schema in PLACES.items() if "properties" in schema}

    assert len(parts) > 25
    assert [path for path in parts if not isinstance(value_at(a_full_document(), path), dict)] == []


def value_at(document: Any, path: str) -> Any:
    for name in path.replace("[0]", ".0").split("."):
        document = document[int(name)] if name.isdigit() else document.get(name)
    return document


def test_there_is_a_rule_in_cel_for_every_rule_in_python() -> None:
    in_python = [rule for rule in cross_field_rules() if rule != ["is missing"]]

    messages = {message for _, message in rules(SPEC, "spec")}
    assert len(in_python) >= 15
    assert len(messages) >= len(in_python)


def test_every_rule_names_its_field_and_what_would_be_right() -> None:
    for path, message in rules(SPEC, "spec"):
        assert path == "spec.stages" or path in PLACES
        assert "; " in message


@pytest.mark.parametrize("column", ["Stage", "State", "Step", "Reward", "Accuracy", "Restarts"])
def test_columns_show_fields_of_the_status(column: str) -> None:
    (version,) = custom_resource_definition()["spec"]["versions"]
    (shown,) = [c for c in version["additionalPrinterColumns"] if c["name"] == column]

    _, status, name = shown["jsonPath"].split(".")
    assert status == "status"
    assert ROOT["properties"]["status"]["properties"][name]["type"] == shown["type"]


def test_what_is_frozen_and_what_is_live_is_everything() -> None:
    frozen = {part.path for part in frozen_parts()}
    live = {
        path for path, field in fields_of(Spec, "spec") if "live" in (field.json_schema_extra or {})
    }

    leaves = {p for p, s in PLACES.items() if "properties" not in s and "[" not in p}
    uncovered = {p for p in leaves if not any(_within(p, part) for part in frozen | live)}
    assert uncovered == set()
    assert not frozen & live


def _within(path: str, part: str) -> bool:
    return path == part or path.startswith(f"{part}.")
