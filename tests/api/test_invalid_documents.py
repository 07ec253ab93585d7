"""Every rule of the contract refuses what breaks it: where, what is wrong, what would be right."""

import pytest

from contract_rules import FieldRule, cross_field_rules, field_rules, owner_and_field
from invalid_documents import ALL, FIELDS, Invalid
from prism_api.base import parse
from prism_api.errors import FieldProblem, SpecError
from prism_api.run import PrismRun
from run_builders import a_document


def problems_of(case: Invalid) -> tuple[FieldProblem, ...]:
    with pytest.raises(SpecError) as caught:
        parse(PrismRun, a_document(case.changes))
    return caught.value.problems


def test_the_document_that_the_table_changes_is_valid() -> None:
    assert list(parse(PrismRun, a_document()).stages) == ["sft", "align", "rlvr"]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_an_invalid_document_is_refused(case: Invalid) -> None:
    found = {problem.path: problem for problem in problems_of(case)}

    assert case.path in found
    assert case.problem in found[case.path].problem
    assert case.remedy in found[case.path].remedy


@pytest.mark.parametrize("case", ALL, ids=str)
def test_only_the_field_at_fault_is_blamed(case: Invalid) -> None:
    assert [problem.path for problem in problems_of(case)] == [case.path]


@pytest.mark.parametrize("case", FIELDS, ids=str)
def test_nobody_is_shown_a_regular_expression(case: Invalid) -> None:
    assert not any(sign in problem.remedy for problem in problems_of(case) for sign in "^$[]*+?")


def test_every_bound_pattern_and_choice_has_a_row() -> None:
    shown = {(owner_and_field(PrismRun, case.path), case.remedy) for case in FIELDS}

    assert [rule for rule in field_rules(PrismRun) if not _is_shown(rule, shown)] == []


def test_every_cross_field_rule_has_a_row() -> None:
    texts = [problem.problem for case in ALL for problem in problems_of(case)]

    rules = [rule for rule in cross_field_rules() if rule != ["is missing"]]
    assert len(rules) >= 12
    assert [rule for rule in rules if not any(_says(text, rule) for text in texts)] == []


def test_every_problem_is_reported_at_once() -> None:
    changes = {"spec.seed": -1, "spec.stages.sft.batchSize": 0, "spec.stages.rlvr.steps": "5"}

    with pytest.raises(SpecError) as caught:
        parse(PrismRun, a_document(changes), "my-run.yaml")

    assert {problem.path for problem in caught.value.problems} == set(changes)
    assert str(caught.value).startswith("my-run.yaml is not valid:\n")
    assert len(str(caught.value).splitlines()) == 4


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(SpecError) as caught:
        parse(PrismRun, a_document({"spec.seed": {"a": "x" * 10_000}}))

    assert len(str(caught.value)) < 200


def _is_shown(rule: FieldRule, shown: set[tuple[tuple[str, str] | None, str]]) -> bool:
    return any(
        place == (rule.owner, rule.field) and (rule.remedy in remedy or remedy in rule.remedy)
        for place, remedy in shown
    )


def _says(text: str, parts: list[str]) -> bool:
    return all(part in text for part in parts)
