"""A run is read once: what its spec means, and why nothing can be made by it."""

from typing import Any

import pytest

from prism_api.names import API_VERSION
from prism_api.resources import Images
from prism_operator.cluster.runs import RunReader, RunRecord
from run_builders import UID

SPEC: dict[str, Any] = {
    "model": {"uri": "hf://org/model"},
    "storage": {"uri": "s3://b/x"},
    "stages": {"align": {"data": {"uri": "s3://b/align.parquet"}}},
}
TEMPLATE = {"workers": {"template": {"spec": {"restartPolicy": "Always"}}}}


def read(backend: str, defaults: Images, **spec: Any) -> RunRecord:
    meta = {"name": "run", "namespace": "team", "uid": UID, "resourceVersion": "1"}
    head = {"apiVersion": API_VERSION, "kind": "PrismRun", "metadata": meta}
    whole = {**head, "spec": {**SPEC, "rollout": {"backend": backend}, **spec}}
    return RunReader(defaults).read(whole, None)


@pytest.mark.parametrize(
    ("backend", "given", "missing"),
    [
        ("vllm", {}, ["trainer", "rollout"]),
        ("vllm", {"trainer": "t:1"}, ["rollout"]),
        ("inprocess", {}, ["trainer"]),
        ("inprocess", {"trainer": "t:1"}, []),
    ],
)
@pytest.mark.parametrize("by_run", [False, True], ids=["by the operator", "by the run"])
def test_an_image_that_nobody_names_is_asked_for(
    backend: str, given: dict[str, str], missing: list[str], by_run: bool
) -> None:
    defaults, own = (Images(), given) if by_run else (Images.model_validate(given), {})
    record = read(backend, defaults, images=own)
    assert record.can_go_on == (not missing)
    for name in ("trainer", "rollout"):
        remedy = f"start the operator with PRISM_{name.upper()}_IMAGE"
        assert (f"spec.images.{name}" in record.refusal) == (name in missing)
        assert (remedy in record.refusal) == (name in missing)


@pytest.mark.parametrize("wish", ["suspend", "cancel"])
def test_what_cannot_start_can_still_be_made_to_end(wish: str) -> None:
    images = Images(trainer="t:1")
    assert not read("inprocess", images, **TEMPLATE).can_go_on
    assert read("inprocess", images, **TEMPLATE, **{wish: True}).can_go_on
