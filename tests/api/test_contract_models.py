"""What holds for every model of the contract, and that the shipped examples follow it."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

import prism_api
from prism_api.base import Contract, parse, parse_json
from prism_api.errors import SpecError
from prism_api.reinforcement import Algorithm
from prism_api.resources import FailurePolicy
from prism_api.run import PrismRun, Spec
from prism_operator.documents import read_run
from prism_operator.local.folder import run_yaml
from run_builders import Changes, a_document, a_prism_run

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def contract_models() -> Iterator[type[Contract]]:
    for module in pkgutil.iter_modules(prism_api.__path__):
        importlib.import_module(f"prism_api.{module.name}")
    waiting = Contract.__subclasses__()
    while waiting:
        model = waiting.pop()
        waiting += model.__subclasses__()
        if model.__module__.startswith("prism_api."):
            yield model


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_shipped_example_is_valid(path: Path) -> None:
    assert read_run(path).stages


def test_the_quickstart_is_among_the_examples() -> None:
    assert "quickstart.yaml" in {path.name for path in EXAMPLES}


@pytest.mark.parametrize("model", list(contract_models()), ids=lambda model: model.__name__)
def test_every_model_and_every_field_says_what_it_is(model: type[Contract]) -> None:
    assert model.__doc__
    unexplained = [name for name, field in model.model_fields.items() if not field.description]
    assert unexplained == []


@pytest.mark.parametrize("model", list(contract_models()), ids=lambda model: model.__name__)
def test_documents_use_camel_case(model: type[Contract]) -> None:
    assert [field.alias for field in model.model_fields.values() if "_" in str(field.alias)] == []


NOT_GIVEN = {
    "spec.seed": None,
    "spec.suspend": None,
    "spec.workers": {"replicas": None, "template": None},
    "spec.failurePolicy": None,
    "spec.stages.sft.batchSize": None,
    "spec.stages.sft.trainVisionTower": None,
    "spec.stages.align.discriminator.warmup": {"learningRate": None},
}


def test_a_null_says_the_same_as_leaving_the_field_out() -> None:
    changes: Changes = {"spec.workers": {}, "spec.stages.align.discriminator.warmup": {}}

    assert a_prism_run(NOT_GIVEN) == a_prism_run(changes)


def test_a_null_for_a_field_that_has_a_use_for_it_is_kept() -> None:
    rlvr = a_prism_run({"spec.stages.rlvr.overlong": None}).spec.stages.rlvr

    assert rlvr is not None
    assert "overlong" in rlvr.model_fields_set


def test_a_null_within_a_pod_template_is_kept() -> None:
    template = {"spec": {"priorityClassName": None}}

    assert a_prism_run({"spec.workers.template": template}).spec.workers.template == template


def test_a_run_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        a_prism_run().spec.seed = 1


def test_python_may_use_its_own_names_and_documents_may_not() -> None:
    spec = a_prism_run().spec

    made = Spec(
        model=spec.model, stages=spec.stages, rollout=spec.rollout, failure_policy=FailurePolicy()
    )
    assert made.failure_policy == spec.failure_policy
    with pytest.raises(SpecError, match="did you mean failurePolicy"):
        parse(PrismRun, a_document({"spec.failure_policy": {}}))


rates = st.floats(1e-9, 1.0)
weights = st.floats(0.0, 1e6)
changes = st.fixed_dictionaries(
    {},
    optional={
        "metadata.name": st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True),
        "metadata.labels": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
        "spec.seed": st.integers(0, 2**31 - 1),
        "spec.suspend": st.booleans(),
        "spec.storage": st.just({"uri": "s3://bucket/prefix", "retention": {"keepLast": 5}}),
        "spec.queue": st.fixed_dictionaries(
            {"name": st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True)}
        ),
        "spec.workers.template": st.dictionaries(st.text(max_size=5), st.none() | st.text()),
        "spec.keepChildren": st.just({"failed": False}),
        "spec.evaluation.maxSamples": st.none() | st.integers(1, 10_000),
        "spec.stages.sft.learningRate": rates,
        "spec.stages.sft.warmupSteps": st.none() | st.integers(0, 10**6),
        "spec.stages.align.captionWeight": weights,
        "spec.stages.align.discriminator.routing": st.sampled_from(["learned", "segment"]),
        "spec.stages.align.discriminator.warmup.steps": st.none() | st.integers(0, 10**6),
        "spec.stages.rlvr.algorithm": st.sampled_from(get_args(Algorithm)),
        "spec.stages.rlvr.rolloutCorrection": st.none() | st.just({"mode": "mask"}),
        "spec.stages.rlvr.clipLow": st.none() | st.floats(1e-9, 0.999),
        "spec.stages.rlvr.overlong": st.none() | st.just({"bufferTokens": 7}),
    },
)


@given(changes)
def test_a_run_survives_json(changed: Changes) -> None:
    run = a_prism_run(changed)

    again = parse_json(PrismRun, run.to_json(), "run.json")

    assert again == run
    assert again.to_json() == run.to_json()


@given(changes)
@example({"metadata.name": "1e3", "metadata.labels": {"a": "0x1f", "b": "1.0", "c": "yes"}})
def test_a_run_survives_the_yaml_that_its_folder_keeps(
    tmp_path_factory: pytest.TempPathFactory, changed: Changes
) -> None:
    run = a_prism_run(changed)
    path = tmp_path_factory.getbasetemp() / "survives.yaml"
    path.write_text(run_yaml(run))

    assert read_run(path) == run


@pytest.mark.parametrize("text", ["{", '{"apiVersion": "prism', b"\xff\xfe", "nonsense"])
def test_a_truncated_json_document_is_named(text: str | bytes) -> None:
    with pytest.raises(SpecError) as caught:
        parse_json(PrismRun, text, "some/run.json")

    assert "some/run.json" in str(caught.value)
    assert "is not JSON" in caught.value.problems[0].problem


@pytest.mark.parametrize("text", ["", " \n", b""])
def test_an_empty_json_document_is_named(text: str | bytes) -> None:
    with pytest.raises(SpecError, match=r"^some/run\.json: is empty; it may be truncated"):
        parse_json(PrismRun, text, "some/run.json")


@pytest.mark.parametrize("text", ["null", "3", "[]", '"text"'])
def test_json_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"\$: .* is not valid; give a mapping of fields"):
        parse_json(PrismRun, text, "run.json")


def test_warmup_steps_take_the_place_of_a_default_ratio() -> None:
    sft = a_prism_run({"spec.stages.sft.warmupSteps": 10}).spec.stages.sft

    assert sft is not None
    assert (sft.warmup_steps, sft.warmup_ratio) == (10, None)
    assert sft.warmup_steps_of(1000) == 10


@pytest.mark.parametrize(
    ("changed", "steps"),
    [
        ({}, 100),
        ({"spec.stages.sft.warmupRatio": 0.25}, 250),
        ({"spec.stages.sft.warmupRatio": None}, 0),
        ({"spec.stages.sft.warmupSteps": 0}, 0),
    ],
)
def test_the_length_of_the_warmup(changed: Changes, steps: int) -> None:
    sft = a_prism_run(changed).spec.stages.sft

    assert sft is not None
    assert sft.warmup_steps_of(1000) == steps


def test_the_control_without_a_discriminator_ignores_the_warmup_batch() -> None:
    changed = {
        "spec.workers.replicas": 4,
        "spec.stages.align.objective": "supervised",
        "spec.stages.align.discriminator.warmup.batchSize": 3,
    }

    assert a_prism_run(changed).spec.stages.align is not None
