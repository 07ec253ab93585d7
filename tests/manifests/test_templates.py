"""What a user's part of a pod template may not say."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from child_builders import TEMPLATE, large_children, pod_template_of
from prism_operator.manifests.merge import merged
from prism_operator.manifests.templates import template_problems

PATH = "spec.workers.template"
BASE = pod_template_of(large_children(template={})[-1])


def ours(**fields: Any) -> dict[str, Any]:
    """A template that says so of our container, which it names second."""
    containers = [{"name": "sidecar", "image": "x"}, {"name": "pytorch", **fields}]
    return {"spec": {"containers": containers}}


REFUSED = {
    "a list": ([], "", "is not a mapping"),
    "another part": ({"status": {}}, ".status", "unknown field"),
    "a name": ({"metadata": {"name": "x"}}, ".metadata.name", "unknown field"),
    "our label": (
        {"metadata": {"labels": {"prism.dev/run": "x"}}},
        ".metadata.labels[prism.dev/run]",
        "is the operator's",
    ),
    "the Training Operator's label": (
        {"metadata": {"labels": {"training.kubeflow.org/replica-index": "0"}}},
        ".metadata.labels[training.kubeflow.org/replica-index]",
        "is the operator's",
    ),
    "whose it is": (
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": "x"}}},
        ".metadata.labels[app.kubernetes.io/managed-by]",
        "is the operator's",
    ),
    "a label that is a number": (
        {"metadata": {"annotations": {"a": 1}}},
        ".metadata.annotations[a]",
        "is not a text",
    ),
    "labels in a list": ({"metadata": {"labels": []}}, ".metadata.labels", "is not a mapping"),
    "metadata in a list": ({"metadata": []}, ".metadata", "is not a mapping"),
    "a spec in a list": ({"spec": []}, ".spec", "is not a mapping"),
    "restarts": (
        {"spec": {"restartPolicy": "Always"}},
        ".spec.restartPolicy",
        "failurePolicy|starts",
    ),
    "a deadline": (
        {"spec": {"activeDeadlineSeconds": 5}},
        ".spec.activeDeadlineSeconds",
        "failurePolicy.stageDeadlineSeconds",
    ),
    "service links": ({"spec": {"enableServiceLinks": True}}, ".spec.enableServiceLinks", "vllm"),
    "our volume": (
        {"spec": {"volumes": [{"name": "config", "emptyDir": {}}]}},
        ".spec.volumes[0].name",
        "config is a volume of the operator's",
    ),
    "a claim of ours": (
        {"spec": {"volumes": [{"name": "claim-0", "emptyDir": {}}]}},
        ".spec.volumes[0].name",
        "claim-0 is a volume",
    ),
    "our container as an init container": (
        {"spec": {"initContainers": [{"name": "pytorch"}]}},
        ".spec.initContainers[0].name",
        "is the operator's container",
    ),
    "our command": (ours(command=["sh"]), ".spec.containers[1].command", "is the operator's"),
    "our arguments": (ours(args=["x"]), ".spec.containers[1].args", "is the operator's"),
    "our image": (ours(image="x"), ".spec.containers[1].image", "set spec.images"),
    "how it is pulled": (
        ours(imagePullPolicy="Never"),
        ".spec.containers[1].imagePullPolicy",
        "set spec.images.pullPolicy",
    ),
    "where results are reported": (
        ours(terminationMessagePath="/x"),
        ".spec.containers[1].terminationMessagePath",
        "is reported there",
    ),
    "a variable of ours": (
        ours(env=[{"name": "A"}, {"name": "PRISM_NODES", "value": "7"}]),
        ".spec.containers[1].env[1].name",
        "PRISM_NODES is the operator's",
    ),
    "a folder of ours": (
        ours(volumeMounts=[{"mountPath": "/etc/prism/config/", "name": "x"}]),
        ".spec.containers[1].volumeMounts[0].mountPath",
        "mount it elsewhere",
    ),
    "GPUs": (
        ours(resources={"limits": {"nvidia.com/gpu": 1}}),
        ".spec.containers[1].resources.limits[nvidia.com/gpu]",
        "set gpusPerReplica",
    ),
    "resources in a list": (ours(resources=[]), ".spec.containers[1].resources", "not a mapping"),
    "limits in a list": (
        ours(resources={"limits": [1]}),
        ".spec.containers[1].resources.limits",
        "not a mapping",
    ),
    "a container without a name": (
        {"spec": {"containers": [{"image": "x"}]}},
        ".spec.containers[0].name",
        "is missing",
    ),
    "a container twice": (
        {"spec": {"containers": [{"name": "x"}, {"name": "x"}]}},
        ".spec.containers[1].name",
        "x is there twice",
    ),
    "containers in a mapping": (
        {"spec": {"containers": {"pytorch": {}}}},
        ".spec.containers",
        "is not a list",
    ),
    "a null": ({"spec": {"affinity": None}}, ".spec.affinity", "is null"),
    "a null far down": (ours(env=[{"name": "A", "value": None}]), "[1].env[0].value", "is null"),
    "a directive": (ours(**{"$patch": "delete"}), ".spec.containers[1].$patch", "directive"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_break_a_run_is_refused_by_its_path(what: str) -> None:
    fragment, path, complaint = REFUSED[what]
    (problem,) = template_problems(fragment, PATH, "pytorch")
    assert problem.path.startswith(PATH)
    assert problem.path.endswith(path)
    assert re.search(complaint, f"{problem.problem}; {problem.remedy}")


@pytest.mark.parametrize("fragment", [{}, TEMPLATE, {"metadata": {}}, {"spec": {}}])
def test_what_users_need_is_allowed(fragment: Any) -> None:
    assert template_problems(fragment, PATH, "pytorch") == []


def test_a_container_of_the_users_own_is_theirs() -> None:
    sidecar = {"name": "pytorch", "image": "x", "command": ["sh"]}
    assert template_problems({"spec": {"containers": [sidecar]}}, PATH, "vllm") == []


def test_everything_that_is_wrong_is_said_at_once() -> None:
    fragment = ours(command=["sh"], args=["-c"])
    fragment["spec"]["restartPolicy"] = "Never"
    assert len(template_problems(fragment, PATH, "pytorch")) == 3


KEYS = st.sampled_from(
    ["metadata", "spec", "labels", "containers", "env", "name", "resources", "limits", "volumes"]
)
LEAVES = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["pytorch", "a"])
JSON = st.recursive(
    LEAVES, lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(KEYS, deeper, max_size=4)
)


@given(st.dictionaries(st.sampled_from(["metadata", "spec"]), JSON) | JSON)
def test_any_json_is_judged_and_what_passes_can_be_merged(fragment: Any) -> None:
    if not template_problems(fragment, PATH, "pytorch"):
        result = merged(BASE, fragment)
        assert (
            result["spec"]["containers"][0]["command"] == BASE["spec"]["containers"][0]["command"]
        )
