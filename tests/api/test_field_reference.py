"""docs/fields.md says of every field what the models say, read here from the models themselves
instead of their JSON schema."""

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from contract_rules import declared_by, field_rules, models_in
from prism_api.algorithms import ALGORITHM_ROWS
from prism_api.run import PrismRun
from prism_api.stages import RlvrStage
from prism_operator.field_reference import field_reference

PAGE = field_reference()
BY_ALGORITHM = "[by algorithm]"


def rows_of(section: str) -> dict[str, list[str]]:
    """The cells of a table by the field that the row is about."""
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first.strip("` "): rest for first, *rest in cells}


def rows_by_path() -> dict[str, list[str]]:
    """The cells of every field by its path in a document."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        others = re.search(r"The same fields stand at (.*)\.$", text, flags=re.MULTILINE)
        paths = [heading, *re.findall("`(.+?)`", others.group(1) if others else "")]
        fields = text.partition("### ")[0]
        for path in paths:
            prefix = "" if path == "The document" else f"{path}."
            found |= {prefix + name: row for name, row in rows_of(fields).items()}
    return found


def fields_of(
    model: type[BaseModel], prefix: str = ""
) -> Iterator[tuple[str, str, type[BaseModel]]]:
    """Path, name and owner of every field that a document may have."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias}"
        yield path, name, model
        for member in members_of(field.annotation):
            entry = "[]" if "tuple" in str(field.annotation) else ""
            yield from fields_of(member, f"{path}{entry}.")


def members_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [member for part in get_args(annotation) for member in members_of(part)]


ROWS = rows_by_path()
FIELDS = {path: (name, model) for path, name, model in fields_of(PrismRun)}


def test_every_field_of_every_model_is_on_the_page_at_every_path_and_nothing_else_is() -> None:
    assert {model for _, model in FIELDS.values()} == set(models_in(PrismRun).values())
    assert set(ROWS) == set(FIELDS)


@pytest.mark.parametrize("path", FIELDS)
def test_its_description_is_the_docstring_under_it(path: str) -> None:
    name, model = FIELDS[path]

    assert ROWS[path][2] == " ".join((model.model_fields[name].description or "").split()) != ""


@pytest.mark.parametrize("path", FIELDS)
def test_its_default_is_the_models(path: str) -> None:
    name, model = FIELDS[path]
    field, shown = model.model_fields[name], ROWS[path][1]

    if shown.startswith(BY_ALGORITHM):
        assert path.startswith("spec.stages.rlvr.")
    elif shown == "required":
        assert field.is_required()
    elif shown == "absent":
        assert field.default is None
    elif shown == "its defaults":
        assert field.default == type(field.default)()
    else:
        expected = field.get_default(call_default_factory=True)
        assert expected is not PydanticUndefined
        assert read(shown) == to_jsonable_python(expected)


def read(cell: str) -> Any:
    """A value as it stands in code quotes."""
    text = cell.removeprefix("`").removesuffix("`")
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def test_every_bound_pattern_and_choice_is_in_the_fields_row() -> None:
    missing = []
    for rule in field_rules(PrismRun):
        shown = [
            ROWS[path][0]
            for path, (name, model) in FIELDS.items()
            if name == rule.field and declared_by(model, name) == rule.owner
        ]
        wanted = rule.remedy.replace(".0", "").strip("'")
        if not shown or not all(wanted in kind for kind in shown):
            missing.append(rule)
    assert missing == []


def test_the_table_of_algorithms_has_each_rows_published_values() -> None:
    section = PAGE.partition("### ")[2].partition("\n## ")[0]
    heads = re.findall(r"^\| field \| (.*) \|$", section, flags=re.MULTILINE)[0].split(" | ")
    table = rows_of(section)

    assert heads == list(ALGORITHM_ROWS)
    for name, field in RlvrStage.model_fields.items():
        for algorithm, row in ALGORITHM_ROWS.items():
            if hasattr(row, name):
                shown = table[str(field.alias)][heads.index(algorithm)]
                value = None if shown == "absent" else read(shown)
                assert value == to_jsonable_python(getattr(row, name), by_alias=True)


def test_what_the_algorithm_decides_refers_to_that_table() -> None:
    section = PAGE.partition("### ")[2].partition("\n## ")[0]
    referring = {path for path, row in ROWS.items() if row[1].startswith(BY_ALGORITHM)}

    assert referring == {f"spec.stages.rlvr.{name}" for name in rows_of(section)}


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", PAGE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    links = set(re.findall(r"\(#(.*?)\)", PAGE))

    assert len(anchors) == len(headings)
    assert links
    assert links <= anchors
