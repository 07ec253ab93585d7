"""The CRD on a real API server: it refuses what `prism validate` refuses, and names the field."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings

from admin_client import AdminClient, ApiError, resource_path
from api_cluster import ApiCluster, wait_for
from crd_server import STRICT, server_verdict, validate_verdict
from invalid_documents import ALL, CONTRADICTIONS, Invalid
from prism_api.base import parse
from prism_api.immutability import frozen_parts
from prism_api.names import API_VERSION, PLURAL
from prism_api.reporting import StageReport
from prism_api.run import PrismRun
from prism_api.schema import root_schema
from prism_api.stages import SftStage
from prism_api.status import AttemptStatus, Condition, PrismRunStatus, StageStatus, State
from report_builders import a_result
from run_builders import REMOVED, Changes, a_document, put
from schema_cases import Place, a_full_document, changes, places, refused, right, rules

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
SPEC = root_schema()["properties"]["spec"]
PLACES = list(places(SPEC, "spec"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GENERATED_SPECS = 2000


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _names(message: str, path: str) -> bool:
    """Whether a message names a field by its path; of what is every object's the API server speaks
    in its own words."""
    member = path.split(".")[1:2]
    words = {
        "apiVersion": "API version",
        "kind": "ind",
        "metadata": rf"(metadata\.|ObjectMeta\.|the ){''.join(member) or 'name'}",
    }.get(path.partition(".")[0], re.escape(path))
    return re.search(rf"({words})(?![A-Za-z0-9])", message) is not None


@pytest.fixture(scope="module")
def admin(cluster: ApiCluster) -> AdminClient:
    cluster.install_crds([ROOT / "crds" / "prismruns.prism.dev.yaml"])
    return cluster.admin


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_applies(admin: AdminClient, cluster: ApiCluster, path: Path) -> None:
    namespace = yaml.safe_load(path.read_text())["metadata"].get("namespace", "default")
    cluster.kubectl("create", "namespace", namespace)

    applied = cluster.kubectl("apply", "--dry-run=server", "-f", path)

    assert (applied.returncode, applied.stderr) == (0, "")


# --- every constraint has a document that breaks it ---


@pytest.mark.parametrize("document", [a_document(), a_full_document()], ids=["least", "full"])
def test_the_documents_that_are_changed_are_valid(
    admin: AdminClient, document: dict[str, Any]
) -> None:
    assert server_verdict(admin, document) == validate_verdict(document)
    assert server_verdict(admin, document).accepted


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.path)
def test_every_constraint_of_the_schema_is_kept_by_both_and_names_the_field(
    admin: AdminClient, place: Place
) -> None:
    for constraint, value in refused(place):
        document = a_full_document({place.path: value})
        if value is REMOVED:
            document = put(a_full_document({place.path: None}), {place.path: REMOVED})
        named = f"{place.path}.noSuchField" if constraint == "unknown" else place.path

        verdicts = server_verdict(admin, document), validate_verdict(document)

        assert [v.accepted for v in verdicts] == [False, False], (constraint, value)
        assert all(_names(v.message, named) for v in verdicts), (constraint, verdicts)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.path)
def test_a_null_is_taken_by_both_where_the_field_may_be_left_out(
    admin: AdminClient, place: Place
) -> None:
    document = a_full_document({place.path: None})

    verdicts = server_verdict(admin, document), validate_verdict(document)

    assert [v.accepted for v in verdicts] == [not place.required] * 2


NOT_JSON = [case for case in ALL if any(_is_not_finite(v) for v in case.changes.values())]


@pytest.mark.parametrize("case", [c for c in ALL if c not in NOT_JSON], ids=str)
def test_an_invalid_document_is_refused_by_name(admin: AdminClient, case: Invalid) -> None:
    verdict = server_verdict(admin, a_document(case.changes))

    assert not verdict.accepted
    assert _names(verdict.message, case.path)


def test_every_cross_field_rule_is_broken_by_a_document(admin: AdminClient) -> None:
    said = [server_verdict(admin, a_document(case.changes)).message for case in CONTRADICTIONS]

    expected = list(rules(SPEC, "spec"))
    assert len(expected) >= 25
    assert [
        (path, message)
        for path, message in expected
        if not any(_names(text, path) and message in text for text in said)
    ] == []


# --- the same verdict, whatever is written ---


def test_both_give_the_same_verdict_on_generated_specs(admin: AdminClient) -> None:
    accepted: Counter[bool] = Counter()

    @settings(
        max_examples=GENERATED_SPECS,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(changes(SPEC))
    def agree(changed: Changes) -> None:
        document = a_full_document(changed)
        server, validate = server_verdict(admin, document), validate_verdict(document)
        assert server.accepted == validate.accepted, (server, validate)
        accepted[server.accepted] += 1

    agree()
    assert accepted.total() >= GENERATED_SPECS
    assert min(accepted[True], accepted[False]) >= GENERATED_SPECS / 5, accepted


# --- what may be changed, and when ---


@pytest.fixture(scope="module")
def runs(admin: AdminClient, cluster: ApiCluster) -> Iterator[dict[bool, str]]:
    """The names of two stored runs: of one that has not started training and of one that has."""
    for name in ("waiting", "training"):
        admin.create(a_full_document({"metadata": {"name": name, "namespace": "default"}}))
    started = {"status": {"startTime": "2026-01-01T00:00:00Z"}}
    admin.patch(API_VERSION, PLURAL, "training", "default", started, subresource="status")
    yield {False: "waiting", True: "training"}
    for name in ("waiting", "training"):
        admin.delete(API_VERSION, PLURAL, name, "default")


def refusal(admin: AdminClient, run: str, spec: object) -> str:
    """What the API server says to a merge patch of a run's spec; empty if it accepts it."""
    path = resource_path(API_VERSION, PLURAL, "default", run)
    kind = "application/merge-patch+json"
    try:
        admin.request("PATCH", path, {"spec": spec}, STRICT, kind)
    except ApiError as error:
        return str(error)
    return ""


def a_patch(path: str, value: Any) -> Any:
    """The merge patch of spec that sets one field; lists are given whole."""
    first, *rest = path.split(".")
    return {first: a_patch(".".join(rest), value) if rest else value}


def other_value(place: Place) -> Any:
    """A value that the field does not have and that is right beside all others."""
    before = parse(PrismRun, a_full_document())
    for value in [*right(place.schema), 2]:
        document = a_full_document({place.path: value})
        if validate_verdict(document).accepted and parse(PrismRun, document) != before:
            return value
    raise AssertionError(f"no other value is known for {place.path}")


# The objective cannot be changed alone beside gating: see the test of several changes.
LEAVES = [
    place
    for place in PLACES
    if "[" not in place.path
    and not place.schema.get("properties")
    and place.path != "spec.stages.align.objective"
]
LIVE = re.compile(
    r"spec\.(suspend|cancel|keepChildren\..*|failurePolicy\..*|images\..*|ttlSecondsAfterFinished|"
    r"queue\.priorityClass|storage\.retention\..*|(.*\.)?(workers|rollout)\.template)"
)


def test_the_live_fields_are_those_of_the_design() -> None:
    live = [place.path for place in LEAVES if LIVE.fullmatch(place.path)]

    assert len(live) == 22
    assert not {part.path for part in frozen_parts()} & set(live)


@pytest.mark.parametrize("place", LEAVES, ids=lambda place: place.path)
def test_before_training_has_started_every_field_can_be_changed(
    admin: AdminClient, runs: dict[bool, str], place: Place
) -> None:
    patch = a_patch(place.path.removeprefix("spec."), other_value(place))

    assert refusal(admin, runs[False], patch) == ""


@pytest.mark.parametrize("place", LEAVES, ids=lambda place: place.path)
def test_once_training_has_started_only_live_fields_can_be_changed(
    admin: AdminClient, runs: dict[bool, str], place: Place
) -> None:
    said = refusal(admin, runs[True], a_patch(place.path.removeprefix("spec."), other_value(place)))

    if LIVE.fullmatch(place.path):
        assert said == ""
    else:
        blamed = [part.path for part in frozen_parts() if place.path.startswith(part.path)]
        assert "cannot be changed once training has started, make a new PrismRun" in said
        assert any(_names(said, path) for path in blamed)


@pytest.mark.parametrize(
    ("patch", "named"),
    [
        ({"seed": 1, "workers": {"replicas": 2}}, ["spec.seed", "spec.workers.replicas"]),
        ({"stages": {"sft": None}}, ["spec.stages.sft.data", "spec.stages.sft.lora"]),
        ({"stages": {"sft": {"workers": None}}}, ["spec.stages.sft.workers"]),
        ({"stages": {"rlvr": {"rollout": None}}}, ["spec.stages.rlvr.rollout"]),
        ({"stages": {"rlvr": {"overlong": None}}}, ["spec.stages.rlvr.overlong"]),
        ({"stages": {"sft": {"data": [{"uri": "s3://b/c"}]}}}, ["spec.stages.sft.data"]),
        (
            {"stages": {"align": {"objective": "supervised", "gating": None}}},
            ["spec.stages.align.objective", "spec.stages.align.gating"],
        ),
        ({"storage": None}, ["spec.storage.uri"]),
        ({"queue": None}, ["spec.queue.name"]),
        ({"evaluation": None}, ["spec.evaluation"]),
    ],
    ids=str,
)
def test_parts_cannot_be_taken_away_and_all_that_changed_is_named(
    admin: AdminClient, runs: dict[bool, str], patch: Any, named: list[str]
) -> None:
    said = refusal(admin, runs[True], patch)

    assert all(_names(said, path) for path in named), said


def test_the_operator_can_write_the_status_of_a_run_that_trains(
    admin: AdminClient, runs: dict[bool, str]
) -> None:
    status = {"status": {"step": "3/9", "state": "Running"}}

    written = admin.patch(API_VERSION, PLURAL, runs[True], "default", status, subresource="status")

    assert written["status"]["step"] == "3/9"


def test_a_whole_status_is_stored_as_it_was_written(
    admin: AdminClient, runs: dict[bool, str]
) -> None:
    stage = StageStatus(
        state=State.SUCCEEDED,
        attempt=AttemptStatus(number=1, started_at=NOW, outcome="ended", exit_code=0),
        metrics={"loss": 0.25, "reward": 1.0},
        result=StageReport(uri="s3://a/b", digest="a" * 64, result=a_result(evaluation=None)),
    )
    accepted = Condition(type="Accepted", status="True", reason="Valid", last_transition_time=NOW)
    status = PrismRunStatus(
        conditions=(accepted,), state=State.RUNNING, start_time=NOW, stages={"sft": stage}
    )
    patch = {"status": status.model_dump(mode="json", by_alias=True)}

    admin.patch(API_VERSION, PLURAL, runs[True], "default", patch, subresource="status")

    stored = admin.get(API_VERSION, PLURAL, runs[True], "default")["status"]
    assert parse(PrismRunStatus, stored) == status


def test_a_status_that_no_operator_writes_is_refused(
    admin: AdminClient, runs: dict[bool, str]
) -> None:
    patch = {"status": {"state": "Thriving"}}

    with pytest.raises(ApiError, match=r"status\.state: Unsupported value"):
        admin.patch(API_VERSION, PLURAL, runs[True], "default", patch, subresource="status")


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("value", [False, None])
def test_a_cancelled_run_stays_cancelled(
    admin: AdminClient, started: bool, value: bool | None
) -> None:
    name = f"cancelled-{started}-{value}".lower()
    admin.create(a_document({"metadata": {"name": name, "namespace": "default"}}))
    if started:
        status = {"status": {"startTime": "2026-01-01T00:00:00Z"}}
        admin.patch(API_VERSION, PLURAL, name, "default", status, subresource="status")
    admin.patch(API_VERSION, PLURAL, name, "default", {"spec": {"cancel": True}})

    said = refusal(admin, name, {"cancel": value})

    assert _names(said, "spec.cancel")
    assert "cannot be undone; make a new PrismRun" in said
    admin.delete(API_VERSION, PLURAL, name, "default")


# --- what kubectl shows ---


def test_kubectl_explains_every_field_in_the_models_words(
    admin: AdminClient, cluster: ApiCluster
) -> None:
    # What is served as documentation follows a CRD within seconds.
    wait_for("the documentation", lambda: explained(cluster, "spec.stages.sft") != "")

    text = " ".join(explained(cluster, "spec.stages.sft").split())

    assert "FIELDS:" in text
    for name, field in SftStage.model_fields.items():
        described = " ".join((field.description or name).split())
        assert described in text
    assert "Supervised fine-tuning on demonstrations (paper, stage 1)." in text
    assert "Default: cosine." in text


def explained(cluster: ApiCluster, path: str) -> str:
    return cluster.kubectl("explain", f"prismrun.{path}").stdout


def test_kubectl_get_shows_where_a_run_stands(cluster: ApiCluster, runs: dict[bool, str]) -> None:
    shown = cluster.kubectl("get", "prun", runs[True]).stdout.splitlines()[0]

    assert shown.split() == [
        *("NAME", "STAGE", "STATE", "STEP", "REWARD", "ACCURACY", "RESTARTS", "AGE")
    ]


def test_a_client_that_does_not_ask_for_strictness_is_warned_of_what_is_dropped(
    admin: AdminClient,
) -> None:
    path = resource_path(API_VERSION, PLURAL, "default")
    document = a_document({"spec.seeed": 1})

    stored = admin.request("POST", path, document, {"dryRun": "All"})

    assert "seeed" not in stored["spec"]


def test_client_side_apply_has_room_for_the_definition() -> None:
    path = ROOT / "crds" / "prismruns.prism.dev.yaml"

    assert len(json.dumps(yaml.safe_load(path.read_text()))) < 200_000  # of 262144
