"""plan(run): the steps, their order, what they hand over, and how settings are resolved."""

from typing import Any

import pytest

from prism_api.base import parse
from prism_api.checkpoint import CheckpointRef
from prism_api.names import MAX_RUN_NAME, STAGE_ORDER
from prism_api.resources import Workers
from prism_api.run import PrismRun
from prism_api.stage_config import RunRef
from prism_operator.planning.naming import attempt_name, stage_uri
from prism_operator.planning.plan import ServeStep, TrainStep, plan
from run_builders import REMOVED, UID, Changes, a_document, a_plan, a_prism_run

RLVR = "spec.stages.rlvr"
VLLM: Changes = {"spec.rollout": {"backend": "vllm", "replicas": 2, "gpusPerReplica": 4}}


def outline(changes: Changes) -> list[str]:
    steps = a_plan(changes).steps
    return [f"{'serve' if isinstance(s, ServeStep) else 'train'} {s.kind}" for s in steps]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, ["train sft", "train align", "train rlvr"]),
        ({"spec.stages.align": REMOVED}, ["train sft", "train rlvr"]),
        ({"spec.stages.sft": REMOVED}, ["train align", "train rlvr"]),
        (VLLM, ["train sft", "serve align", "train align", "serve rlvr", "train rlvr"]),
        (
            {**VLLM, f"{RLVR}.rollout": {"backend": "inprocess"}},
            ["train sft", "serve align", "train align", "train rlvr"],
        ),
        (
            {f"{RLVR}.rollout": {"backend": "vllm"}},
            ["train sft", "train align", "serve rlvr", "train rlvr"],
        ),
    ],
)
def test_the_steps_of_a_run(changes: Changes, steps: list[str]) -> None:
    assert outline(changes) == steps


def test_the_order_of_the_document_does_not_matter() -> None:
    document = a_document()
    stages = document["spec"]["stages"]
    document["spec"]["stages"] = dict(reversed(list(stages.items())))

    assert list(document["spec"]["stages"]) == ["rlvr", "align", "sft"]
    assert plan(parse(PrismRun, document), UID, "file:///store") == a_plan()


@pytest.mark.parametrize(
    ("absent", "after"),
    [
        ([], [None, "sft", "align"]),
        (["align"], [None, "sft"]),
        (["sft"], [None, "align"]),
        (["sft", "align"], [None]),
    ],
)
def test_each_stage_starts_from_the_one_before_it_in_the_run(
    absent: list[str], after: list[str | None]
) -> None:
    steps = a_plan({f"spec.stages.{kind}": REMOVED for kind in absent}).train_steps

    assert [step.after for step in steps] == after


def test_a_config_holds_what_its_step_says_and_what_it_starts_from() -> None:
    _, align, _ = a_plan({"spec.seed": 7}).train_steps
    parent = CheckpointRef(uri="file:///store/sft/a2/step-9", digest="e" * 64)

    config = align.config(3, parent)

    assert (config.kind, config.attempt, config.seed) == ("align", 3, 7)
    assert config.init_from == parent
    assert config.stage == align.stage
    assert (config.stages.sft, config.stages.rlvr) == (None, None)
    assert config.stage_uri == f"file:///store/default/run/{UID}/align"


def test_a_stage_may_have_its_own_workers_and_rollouts() -> None:
    changes: dict[str, Any] = {
        "spec.workers": {"replicas": 2},
        "spec.stages.align.workers": {"replicas": 4, "gpusPerReplica": 1},
        f"{RLVR}.rollout": {"backend": "inprocess", "batchSize": 9},
    }
    sft, align, rlvr = a_plan(changes).train_steps

    assert [step.workers.replicas for step in (sft, align, rlvr)] == [2, 4, 2]
    assert (sft.gpus, align.gpus) == (0, 4)
    assert sft.rollout is None
    assert align.rollout is not None
    assert rlvr.rollout is not None
    assert (align.rollout.batch_size, rlvr.rollout.batch_size) == (256, 9)


def test_pod_templates_are_for_the_executor_and_change_nothing_that_trainers_read() -> None:
    own = {"backend": "inprocess"}
    plain = {"spec.stages.align.workers": {}, f"{RLVR}.rollout": own}
    template = {"spec": {"nodeSelector": {"pool": "a"}}}
    placed = {
        "spec.workers": {"template": template},
        "spec.rollout": {"backend": "inprocess", "template": template},
        "spec.stages.align.workers": {"template": template},
        f"{RLVR}.rollout": {**own, "template": template},
    }
    steps = a_plan(placed).train_steps

    assert all(step.workers.template == template for step in steps)
    assert all(step.rollout.template == template for step in steps if step.rollout)
    assert [step.config(1, None) for step in steps] == [
        step.config(1, None) for step in a_plan(plain).train_steps
    ]


@pytest.mark.parametrize(
    ("workers", "precision"),
    [
        ({}, "fp32"),
        ({"gpusPerReplica": 8}, "bf16"),
        ({"precision": "fp32"}, "fp32"),
        ({"gpusPerReplica": 8, "precision": "fp32"}, "fp32"),
        ({"gpusPerReplica": 8, "precision": "bf16"}, "bf16"),
        ({"gpusPerReplica": 8, "precision": "auto", "threadsPerProcess": 3}, "bf16"),
    ],
)
def test_the_plan_shows_the_precision_resolved(workers: dict[str, Any], precision: str) -> None:
    """Published: bf16; a CPU computes in fp32."""
    (step,) = a_plan(
        {"spec.workers": workers, "spec.stages.align": REMOVED, RLVR: REMOVED}
    ).train_steps
    document = step.config(1, None).model_dump(mode="json", by_alias=True)

    expected = Workers.model_validate(workers, by_alias=True).model_dump(by_alias=True)
    assert document["workers"] == expected | {"precision": precision}


def test_each_stage_has_the_precision_of_its_own_workers() -> None:
    steps = a_plan({"spec.stages.align.workers": {"gpusPerReplica": 4}}).train_steps

    assert [step.workers.precision for step in steps] == ["fp32", "bf16", "fp32"]


def test_servers_are_counted() -> None:
    (serve, *_) = [s for s in a_plan(VLLM).steps if isinstance(s, ServeStep)]

    assert serve.gpus == 8


@pytest.mark.parametrize(
    ("algorithm", "clips", "dynamic", "overlong"),
    [
        ("grpo", (0.2, 0.2, 3.0), False, None),
        ("dapo", (0.2, 0.28, 10.0), True, 4096),
        ("gspo", (3e-4, 4e-4, 0.0), False, None),
        ("dr-grpo", (0.2, 0.2, 0.0), False, None),
        ("cispo", (1.0, 4.0, 0.0), False, None),
    ],
)
def test_the_plan_shows_the_algorithm_resolved(
    algorithm: str, clips: tuple[float, ...], dynamic: bool, overlong: int | None
) -> None:
    stage: Any = a_plan({f"{RLVR}.algorithm": algorithm}).train_steps[-1].stage

    assert (stage.clip_low, stage.clip_high, stage.dual_clip) == clips
    assert stage.dynamic_sampling is dynamic
    assert (stage.overlong and stage.overlong.buffer_tokens) == overlong


def test_retention_comes_from_the_storage() -> None:
    changes = {"spec.storage": {"uri": "s3://b", "retention": {"keepLast": 5}}}

    assert [s.retention.keep_last for s in a_plan(changes).train_steps] == [5, 5, 5]
    assert [s.retention.keep_last for s in a_plan().train_steps] == [2, 2, 2]


def test_the_same_run_always_gives_the_same_plan() -> None:
    run = a_prism_run(VLLM)
    before = run.to_json()

    first, second = (plan(run, UID, "file:///store") for _ in range(2))

    assert first == second
    assert run.to_json() == before
    hashes = [
        [s.config(1, None).config_hash for s in p.steps if isinstance(s, TrainStep)]
        for p in (first, second)
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 3


def test_another_run_of_the_same_name_shares_no_folder() -> None:
    other = a_plan(uid="11111111-2222-3333-4444-555555555555")

    mine = {step.stage_uri for step in a_plan().train_steps}
    assert mine.isdisjoint(step.stage_uri for step in other.train_steps)


@pytest.mark.parametrize("store", ["s3://bucket/prefix", "s3://bucket/prefix/"])
def test_the_folder_of_a_stage(store: str) -> None:
    run = RunRef(namespace="team-a", name="qwen", uid=UID)

    assert stage_uri(store, run, "sft") == f"s3://bucket/prefix/team-a/qwen/{UID}/sft"


@pytest.mark.parametrize("kind", STAGE_ORDER)
def test_the_longest_name_of_a_child_fits_kubernetes(kind: Any) -> None:
    run = RunRef(namespace="n", name="a" * MAX_RUN_NAME, uid=UID)

    name = attempt_name(run, kind, 1001)

    assert name == f"{'a' * 40}-{kind}-a1001"
    assert len(f"{name}-worker-999") <= 63


def test_every_attempt_has_a_name_of_its_own() -> None:
    names = {
        attempt_name(step.run, step.kind, number)
        for step in a_plan().train_steps
        for number in range(1, 12)
    }

    assert len(names) == 33
