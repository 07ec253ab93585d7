"""The CRD on a real API server: it refuses what `prism validate` refuses, and names the field."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings

from admin_client import AdminClient
from api_cluster import ApiCluster
from crd_server import server_verdict, validate_verdict
from invalid_documents import ALL, CONTRADICTIONS, Invalid
from prism_api.schema import root_schema
from run_builders import REMOVED, Changes, a_document, put
from schema_cases import Place, a_full_document, changes, places, refused, right, rules

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
SPEC = root_schema()["properties"]["spec"]
PLACES = list(places(SPEC, "spec"))
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
        document = a_full_document()
        try:
            document = a_full_document(changed)
        except (AttributeError, IndexError, KeyError, TypeError):
            pass  # a change below something that an earlier one took away
        server, validate = server_verdict(admin, document), validate_verdict(document)
        assert server.accepted == validate.accepted, (server, validate)
        accepted[server.accepted] += 1

    agree()
    assert accepted.total() >= GENERATED_SPECS
    assert min(accepted[True], accepted[False]) >= GENERATED_SPECS / 5, accepted
