"""What the operator may do; a test on a real API server pins the verbs (tests/cluster)."""

from pathlib import Path

from child_builders import large_children, small_children
from prism_operator.chart_rules import chart_rules
from prism_operator.manifests.context import Manifest
from prism_operator.manifests.rbac import (
    OWN_PERMISSIONS,
    PERMISSIONS,
    Permission,
    build_cluster_wide,
    build_namespaced,
    rules,
)

PLURALS = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "NetworkPolicy": "networkpolicies",
    "PyTorchJob": "pytorchjobs",
    "Secret": "secrets",
    "Service": "services",
}


def granted(manifests: list[Manifest]) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of all rules."""
    return {
        (group, resource, verb)
        for manifest in manifests
        for rule in manifest.get("rules", [])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_roles_grant_the_table_and_nothing_else() -> None:
    table = {(p.group, p.resource, v) for p in PERMISSIONS + OWN_PERMISSIONS for v in p.verbs}
    assert granted(build_cluster_wide("prism")) == table
    assert granted(build_namespaced("prism", ["team-a"])) == table


def test_the_charts_rules_are_made_of_the_table() -> None:
    written = Path(__file__).parents[2] / "charts" / "prism" / "rbac.yaml"
    assert written.read_text() == chart_rules()


def test_every_kind_of_child_can_be_created() -> None:
    for child in [*small_children(), *large_children()]:
        group = child["apiVersion"].rpartition("/")[0]
        wanted = (group, PLURALS[child["kind"]], "create")
        assert wanted in granted(build_cluster_wide("prism"))


def test_no_secret_is_ever_read_and_nothing_is_a_wildcard() -> None:
    verbs = {p.resource: p.verbs for p in PERMISSIONS}
    assert verbs["secrets"] == ("create",)
    assert "*" not in {part for found in granted(build_cluster_wide("prism")) for part in found}


def test_namespaced_mode_has_no_right_beyond_its_namespaces() -> None:
    manifests = build_namespaced("prism", ["team-a", "team-b"])
    assert not [one for one in manifests if one["kind"].startswith("Cluster")]
    places = {one["metadata"]["namespace"] for one in manifests}
    assert places == {"prism", "team-a", "team-b"}


def test_every_permission_says_why_and_stands_once() -> None:
    keys = [(p.group, p.resource) for p in PERMISSIONS + OWN_PERMISSIONS]
    assert len(keys) == len(set(keys))
    assert all(p.why for p in PERMISSIONS + OWN_PERMISSIONS)


def test_permissions_of_one_group_and_the_same_verbs_are_one_rule() -> None:
    table = [Permission("g", "a", ("get",), "x"), Permission("g", "b", ("get",), "y")]
    assert rules(table) == [{"apiGroups": ["g"], "resources": ["a", "b"], "verbs": ["get"]}]
