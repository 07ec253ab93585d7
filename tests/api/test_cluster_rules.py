"""What runs on one machine only is told apart from what can run in a cluster."""

import copy
from pathlib import Path
from typing import Any

import pytest

from prism_api.cluster_rules import cluster_problems
from prism_operator.documents import read_run
from run_builders import a_prism_run

EXAMPLES = Path(__file__).parents[2] / "examples"
ALIGN = "spec.stages.align"
IN_A_CLUSTER: dict[str, Any] = {
    "spec.storage": {"uri": "s3://bucket/prefix"},
    "spec.model.uri": "hf://org/model",
    "spec.stages.sft.data": [{"uri": "s3://bucket/a"}, {"uri": "pvc://claim/b"}],
    f"{ALIGN}.data.uri": "s3://bucket/align",
    "spec.stages.rlvr.data.uri": "s3://bucket/rlvr",
    "spec.evaluation.data.uri": "s3://bucket/heldout",
}


def problems_of(changes: dict[str, Any]) -> dict[str, str]:
    found = cluster_problems(a_prism_run(copy.deepcopy(IN_A_CLUSTER) | changes))
    return {problem.path: f"{problem.problem}; {problem.remedy}" for problem in found}


def test_a_run_with_everything_in_stores_has_no_problem() -> None:
    assert problems_of({}) == {}


@pytest.mark.parametrize("name", ["qwen3-vl-4b.yaml", "qwen3-vl-8b.yaml"])
def test_the_examples_for_clusters_have_no_problem(name: str) -> None:
    assert cluster_problems(read_run(EXAMPLES / name)) == []


def test_a_run_needs_a_store() -> None:
    assert problems_of({"spec.storage": None}) == {
        "spec.storage": "is missing: pods share no folder; add storage: {uri: s3://BUCKET/PREFIX}"
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"spec.storage.uri": "file://store"},
        {"spec.model.uri": "file://model"},
        {"spec.model.uri": "builtin://digits/model"},
        {"spec.stages.sft.data[1].uri": "file://sft.parquet"},
        {f"{ALIGN}.data.uri": "builtin://digits/align.parquet"},
        {f"{ALIGN}.discriminator.model.uri": "file://dense"},
        {f"{ALIGN}.discriminator.warmup.data.uri": "file://pairs.parquet"},
        {"spec.stages.rlvr.data.uri": "file://rlvr.parquet"},
        {"spec.evaluation.data.uri": "builtin://digits/heldout.parquet"},
    ],
    ids=str,
)
def test_a_local_uri_is_named_with_its_path(changes: dict[str, str]) -> None:
    ((path, uri),) = changes.items()

    found = problems_of(changes)

    assert list(found) == [path]
    assert found[path].startswith(f"{uri} is only there in local runs; give an ")


def test_every_problem_is_reported_at_once() -> None:
    assert len(cluster_problems(a_prism_run())) == 6


def test_what_a_template_holds_is_not_looked_at() -> None:
    template = {"metadata": {"annotations": {"uri": "file://a"}}}

    assert problems_of({"spec.workers.template": template}) == {}
