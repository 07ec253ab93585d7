"""Children as whole objects, and what they have in common."""

import json

import pytest
import yaml

from child_builders import (
    LARGE,
    SMALL,
    TEMPLATE,
    TOKEN,
    a_step,
    large_children,
    large_context,
    named_children,
    pod_template_of,
    small_children,
    the_serve_step,
    with_images,
)
from golden_children import FOLDER
from prism_api.base import parse_json
from prism_api.stage_config import StageConfig
from prism_operator.manifests.context import ATTEMPT_ANNOTATION, Manifest
from prism_operator.manifests.drift import differs
from prism_operator.manifests.hashing import HASH_ANNOTATION, has_other_template, template_hash
from prism_operator.manifests.pytorch_job import build_pytorch_job
from prism_operator.manifests.rollout_deployment import build_rollout_deployment
from run_builders import UID

CHILDREN = [*small_children(), *large_children()]
WITH_PODS = [child for child in CHILDREN if child["kind"] in ("PyTorchJob", "Deployment")]


def child(kind: str, children: list[Manifest]) -> Manifest:
    """The one of a kind."""
    found = [one for one in children if one["kind"] == kind]
    assert len(found) == 1
    return found[0]


def environment(manifest: Manifest) -> dict[str, str]:
    """Of our container, what has its value in the manifest."""
    variables = pod_template_of(manifest)["spec"]["containers"][0]["env"]
    return {one["name"]: one["value"] for one in variables if "value" in one}


@pytest.mark.parametrize("name", named_children())
def test_children_are_the_ones_that_were_reviewed(name: str) -> None:
    """After an intended change: `make golden`, and look at the diff."""
    written = list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))
    assert written == named_children()[name]


def test_nothing_else_was_reviewed() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(named_children())


@pytest.mark.parametrize("one", CHILDREN, ids=lambda one: str(one["kind"]))
def test_every_child_says_whose_it_is(one: Manifest) -> None:
    metadata = one["metadata"]
    assert metadata["labels"]["prism.dev/run-uid"] == UID
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "prism-operator"
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("PrismRun", UID, True)


@pytest.mark.parametrize("one", WITH_PODS, ids=lambda one: str(one["metadata"]["name"]))
def test_pods_ask_for_no_rights_and_no_surprises(one: Manifest) -> None:
    spec = pod_template_of(one)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {"scratch", "tmp", "shm"}
    for mount in container["volumeMounts"]:
        assert mount.get("readOnly", False) is (mount["name"] not in writable)


def test_the_config_map_is_the_config_of_the_attempt() -> None:
    planned, step = a_step(SMALL, "sft")
    data = child("ConfigMap", small_children())["data"]
    assert parse_json(StageConfig, data["stage.json"], "stage.json") == step.config(1, None)
    assert planned.run.uid == UID


def test_no_pod_and_no_config_has_the_token_or_a_credential_in_it() -> None:
    """They refer to Secrets; the one that we make is the only place of the token."""
    children = large_children()
    assert "YS10b2tlbi1vZi10aGUtdGVzdHM=" in json.dumps(child("Secret", children))
    others = [one for one in children if one["kind"] != "Secret"]
    assert TOKEN not in json.dumps(others)
    job = child("PyTorchJob", others)
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & environment(job).keys()


def test_a_job_without_a_queue_is_not_suspended() -> None:
    job = child("PyTorchJob", small_children())
    assert "suspend" not in job["spec"]["runPolicy"]
    assert not [label for label in job["metadata"]["labels"] if "kueue" in label]


def test_a_stage_without_servers_knows_of_none() -> None:
    job = child("PyTorchJob", small_children())
    assert not [name for name in environment(job) if "ROLLOUT" in name]


def test_trainers_are_told_the_name_that_the_service_has_and_the_port_that_servers_have() -> None:
    children = large_children()
    service, deployment = child("Service", children), child("Deployment", children)
    (port,) = service["spec"]["ports"]
    url = f"http://{service['metadata']['name']}:{port['port']}"
    assert environment(child("PyTorchJob", children))["PRISM_ROLLOUT_URLS"] == url
    (container,) = pod_template_of(deployment)["spec"]["containers"]
    assert f"--port={port['port']}" in container["command"]
    assert port["targetPort"] == container["ports"][0]["containerPort"]


def test_selectors_find_the_pods_that_they_mean_and_no_others() -> None:
    children = large_children()
    servers = pod_template_of(child("Deployment", children))["metadata"]["labels"].items()
    trainers = pod_template_of(child("PyTorchJob", children))["metadata"]["labels"].items()
    policy = child("NetworkPolicy", children)["spec"]
    selectors = [
        child("Deployment", children)["spec"]["selector"]["matchLabels"].items(),
        child("Service", children)["spec"]["selector"].items(),
        policy["podSelector"]["matchLabels"].items(),
    ]
    for selector in selectors:
        assert selector <= servers
        assert not selector <= trainers
    admitted = policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"].items()
    assert admitted <= trainers
    assert not admitted <= servers


def test_another_attempt_restarts_no_server() -> None:
    first, second = (child("Deployment", large_children(attempt=n)) for n in (1, 2))
    assert first["metadata"]["annotations"][ATTEMPT_ANNOTATION] == "1"
    assert second["metadata"]["annotations"][ATTEMPT_ANNOTATION] == "2"
    assert first["spec"] == second["spec"]
    assert template_hash(first) == template_hash(second)


@pytest.mark.parametrize("kind", ["PyTorchJob", "Deployment"])
def test_the_hash_sees_what_may_be_changed_live_and_is_the_same_every_time(kind: str) -> None:
    one = child(kind, large_children())
    assert one["metadata"]["annotations"][HASH_ANNOTATION] == template_hash(one)
    assert template_hash(child(kind, large_children())) == template_hash(one)
    assert template_hash(child(kind, large_children(template={}))) != template_hash(one)
    planned, step = a_step(LARGE, "rlvr")
    context = with_images(large_context(planned), trainer="other", rollout="other")
    serve = the_serve_step(planned)
    other = (
        build_pytorch_job(context, step, 3, "large-rlvr-a3", TEMPLATE)
        if kind == "PyTorchJob"
        else build_rollout_deployment(context, serve, step, 3, TEMPLATE)
    )
    assert template_hash(other) != template_hash(one)


def test_a_server_has_half_an_hour_to_start_and_is_looked_at_without_a_token() -> None:
    deployment = child("Deployment", large_children())
    (container,) = pod_template_of(deployment)["spec"]["containers"]
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] == 1800
    assert deployment["spec"]["progressDeadlineSeconds"] > 1800, "or it is given up while it starts"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": 8000}


@pytest.mark.parametrize(
    ("uri", "argument"),
    [
        ("hf://Qwen/Qwen3-VL-4B-Instruct", "--model=Qwen/Qwen3-VL-4B-Instruct"),
        ("pvc://models/a%20b/c", "--model=/pvc/models/a b/c"),
        ("s3://bucket/model", "--model=s3://bucket/model"),
    ],
)
def test_a_server_serves_the_model_of_the_run(uri: str, argument: str) -> None:
    deployment = child("Deployment", large_children({"spec.model.uri": uri}))
    (container,) = pod_template_of(deployment)["spec"]["containers"]
    assert argument in container["command"]


def test_trainers_have_every_claim_that_their_config_names_once() -> None:
    job = child("PyTorchJob", large_children({"spec.evaluation.data.uri": "pvc://data/held-out"}))
    spec = pod_template_of(job)["spec"]
    claims = [
        (volume["name"], volume["persistentVolumeClaim"]["claimName"])
        for volume in spec["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == [("claim-0", "data"), ("claim-1", "models")]
    folders = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    assert (folders["claim-0"], folders["claim-1"]) == ("/pvc/data", "/pvc/models")


def test_a_child_of_another_template_is_told_from_one_that_was_edited() -> None:
    desired = child("Deployment", large_children())
    before = child("Deployment", large_children(template={}))
    assert has_other_template(desired, before)
    edited = child("Deployment", large_children())
    edited["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    assert not has_other_template(desired, edited)
    assert differs(desired, edited)
    del edited["metadata"]["annotations"]
    assert not has_other_template(desired, edited)
