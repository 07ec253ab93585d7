"""The documents between planner and trainer: StageConfig, StageResult, CheckpointManifest."""

from typing import Any

import pytest

from contract_rules import cross_field_rules, field_rules, owner_and_field
from prism_api.base import Contract, parse, parse_json
from prism_api.checkpoint import CheckpointManifest, CheckpointRef
from prism_api.errors import SpecError
from prism_api.run import PrismRun
from prism_api.stage_config import StageConfig, StageResult
from report_builders import a_result
from run_builders import REMOVED, UID, Changes, a_plan, put

DIGEST = "0123456789abcdef" * 4
PARENT = CheckpointRef(uri="file:///store/sft/a1/step-4", digest=DIGEST)


def a_config(changes: Changes | None = None, attempt: int = 1) -> StageConfig:
    align = a_plan(changes).train_steps[1]
    return align.config(attempt, PARENT)


MANIFEST: dict[str, Any] = {
    "runUid": UID,
    "stage": "sft",
    "attempt": 1,
    "step": 4,
    "weightVersion": 4,
    "configHash": DIGEST,
    "parent": None,
    "objects": [{"path": "export/config.json", "sizeBytes": 3, "sha256": DIGEST}],
}
DOCUMENTS: dict[type[Contract], dict[str, Any]] = {
    StageConfig: a_config().model_dump(mode="json", by_alias=True),
    StageResult: a_result().model_dump(mode="json", by_alias=True),
    CheckpointManifest: MANIFEST,
}


@pytest.mark.parametrize("model", DOCUMENTS, ids=lambda model: model.__name__)
def test_a_document_survives_json(model: type[Contract]) -> None:
    read = parse(model, DOCUMENTS[model])

    assert parse_json(model, read.to_json(), "it.json") == read


Row = tuple[type[Contract], str, Any, str, str]

ROWS: tuple[Row, ...] = (
    (StageConfig, "schemaVersion", 2, "2 is not valid", "give 1"),
    (StageConfig, "run.uid", "UPPER-CASE", '"UPPER-CASE"', "8 to 64 characters: digits, a to f"),
    (StageConfig, "kind", "dpo", '"dpo"', "one of 'sft', 'align' or 'rlvr'"),
    (StageConfig, "attempt", 0, "0 is not valid", "at least 1"),
    (StageConfig, "attempt", 2**31, "2147483648 is not valid", "at most 2147483647"),
    (StageConfig, "seed", -1, "-1 is not valid", "at least 0"),
    (StageConfig, "initFrom.digest", "abc", '"abc" is not valid', "a SHA-256 as 64"),
    (StageConfig, "init_from", None, "unknown field", "did you mean initFrom?"),
    (StageConfig, "rollout", REMOVED, "is missing", "add it"),
    (StageConfig, "stages.align.steps", "5", '"5" is not valid', "a whole number"),
    (StageConfig, "workers.precision", "auto", '"auto"', "one of 'bf16' or 'fp32'"),
    (StageConfig, "workers.precision", REMOVED, "is missing", "add it"),
    (StageResult, "schemaVersion", 0, "0 is not valid", "give 1"),
    (StageResult, "kind", "SFT", '"SFT"', "one of 'sft', 'align' or 'rlvr'"),
    (StageResult, "attempt", 0, "0 is not valid", "at least 1"),
    (StageResult, "attempt", 2**31, "2147483648 is not valid", "at most 2147483647"),
    (StageResult, "steps", 2**31, "2147483648 is not valid", "at most 2147483647"),
    (StageResult, "evaluation.samples", 2**31, "2147483648", "at most 2147483647"),
    (StageResult, "configHash", "A" * 64, "AAA", "a SHA-256 as 64"),
    (StageResult, "steps", 0, "0 is not valid", "at least 1"),
    (StageResult, "seconds", -1, "-1 is not valid", "at least 0"),
    (StageResult, "run", REMOVED, "is missing", "add it"),
    (StageResult, "checkpoint", None, "null is not valid", "a mapping of fields"),
    (StageResult, "evaluation.samples", 0, "0 is not valid", "at least 1"),
    (StageResult, "evaluation.tooLong", -1, "-1 is not valid", "at least 0"),
    (StageResult, "evaluation.correct", -1, "-1 is not valid", "at least 0"),
    (StageResult, "evaluation.accuracy", -0.1, "-0.1 is not valid", "at least 0"),
    (StageResult, "evaluation.accuracy", 1.5, "1.5 is not valid", "at most 1"),
    (StageResult, "evaluation.captionAccuracy", -1, "-1 is not valid", "at least 0"),
    (StageResult, "evaluation.captionAccuracy", 2, "2 is not valid", "at most 1"),
    (StageResult, "evaluation.formatRate", -1, "-1 is not valid", "at least 0"),
    (StageResult, "evaluation.formatRate", 100, "100 is not valid", "at most 1"),
    (StageResult, "evaluation.meanResponseTokens", -1, "-1 is not valid", "at least 0"),
    (CheckpointManifest, "schemaVersion", 2, "2 is not valid", "give 1"),
    (CheckpointManifest, "stage", "warmup", '"warmup"', "one of 'sft', 'align' or 'rlvr'"),
    (CheckpointManifest, "attempt", 0, "0 is not valid", "at least 1"),
    (CheckpointManifest, "attempt", 2**31, "2147483648", "at most 2147483647"),
    (CheckpointManifest, "step", -1, "-1 is not valid", "at least 0"),
    (CheckpointManifest, "weightVersion", -1, "-1 is not valid", "at least 0"),
    (CheckpointManifest, "configHash", "0" * 63, "000", "a SHA-256 as 64"),
    (CheckpointManifest, "parent", REMOVED, "is missing", "add it"),
    (CheckpointManifest, "objects[0].path", "/etc/x", "/etc/x", "a relative path"),
    (CheckpointManifest, "objects[0].path", "a//b", '"a//b"', "a relative path"),
    (CheckpointManifest, "objects[0].sizeBytes", -1, "-1 is not valid", "at least 0"),
    (CheckpointManifest, "objects[0].sha256", "", '"" is not valid', "a SHA-256 as 64"),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0].__name__} {row[1]} {row[2]!r}")
def test_a_damaged_document_is_refused(row: Row) -> None:
    model, path, value, problem, remedy = row

    with pytest.raises(SpecError) as caught:
        parse(model, put(DOCUMENTS[model], {path: value}), "some/file.json")

    assert str(caught.value).startswith("some/file.json is not valid:")
    (found,) = caught.value.problems
    assert found.path == path
    assert problem in found.problem
    assert remedy in found.remedy


@pytest.mark.parametrize("model", DOCUMENTS, ids=lambda model: model.__name__)
def test_every_rule_has_a_row(model: type[Contract]) -> None:
    shown = {(owner_and_field(row[0], row[1]), row[4]) for row in ROWS}

    elsewhere = field_rules(PrismRun)
    missing = [
        rule
        for rule in field_rules(model) - elsewhere
        if not any(
            place == (rule.owner, rule.field) and (rule.remedy in said or said in rule.remedy)
            for place, said in shown
        )
    ]
    assert missing == []


def test_a_config_without_the_parameters_of_its_stage_is_refused() -> None:
    document = put(DOCUMENTS[StageConfig], {"kind": "rlvr"})

    with pytest.raises(SpecError) as caught:
        parse(StageConfig, document)

    assert ["is missing"] in cross_field_rules()
    assert str(caught.value.problems[0]) == "stages.rlvr: is missing; give what `kind` names"


NO_MATTER: dict[str, Any] = {
    "run.uid": "00000000-0000",
    "run.name": "other",
    "run.namespace": "other",
    "attempt": 7,
    "initFrom.uri": "file:///moved/sft/a1/step-4",
    "stageUri": "file:///elsewhere",
    "stages.align.checkpointEverySteps": 7,
    "stages.align.workers": {"replicas": 4},  # the resolved ones count
    "stages.align.rollout": {"backend": "vllm"},
    "workers.gpuMemoryGib": 40,  # the trainer asks its GPU
    "workers.template": {"spec": {"nodeSelector": {"pool": "a"}}},
    "rollout.template": {"spec": {"nodeSelector": {"pool": "b"}}},
    "retention.keepLast": 9,
}


@pytest.mark.parametrize("path", NO_MATTER)
def test_the_hash_ignores_what_does_not_decide_the_result(path: str) -> None:
    config = parse(StageConfig, DOCUMENTS[StageConfig])

    changed = parse(StageConfig, put(DOCUMENTS[StageConfig], {path: NO_MATTER[path]}))

    assert changed != config
    assert changed.config_hash == config.config_hash


OTHERS: dict[str, Any] = {
    "kind": "rlvr",
    "seed": 1,
    "model.uri": "file://other",
    "systemMessage": "Be brief.",
    "initFrom": None,
    "initFrom.digest": "e" * 64,
    "stages.align.steps": 501,
    "workers.replicas": 2,
    "workers.threadsPerProcess": 2,
    "rollout.batchSize": 8,
    "evaluation.maxSamples": 8,
    "evaluation": None,
}


@pytest.mark.parametrize("path", OTHERS)
def test_the_hash_sees_everything_else(path: str) -> None:
    rlvr = a_plan().train_steps[2].config(1, PARENT).model_dump(mode="json", by_alias=True)
    document = put(DOCUMENTS[StageConfig], {"stages.rlvr": rlvr["stages"]["rlvr"]})

    changed = put(document, {path: OTHERS[path]})

    assert parse(StageConfig, changed).config_hash != parse(StageConfig, document).config_hash


def test_of_every_member_it_is_known_whether_the_hash_sees_it() -> None:
    top = {path.partition(".")[0] for path in OTHERS | NO_MATTER}

    assert top | {"schemaVersion"} == {field.alias for field in StageConfig.model_fields.values()}
