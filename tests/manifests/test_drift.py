"""Drift is what somebody changed, never what the API server added."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from child_builders import large_children, small_children
from prism_operator.manifests.context import Manifest
from prism_operator.manifests.drift import differs, enforced

CHILDREN = [*small_children(), *large_children()]
NAMES = [f"{child['kind']}-{child['metadata']['name']}" for child in CHILDREN]
ANY_CHILD = pytest.mark.parametrize("child", CHILDREN, ids=NAMES)
JOB = CHILDREN[-1]
Place = tuple[str | int, ...]


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where every value is that is no mapping or list with something in it."""
    members: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in members:
        if isinstance(member, dict | list) and member:
            yield from leaves(member, (*place, key))
        else:
            yield (*place, key)


def changed(manifest: Manifest, place: Place, *values: Any) -> Manifest:
    """A copy with another value there, or with none."""
    result = copy.deepcopy(manifest)
    owner: Any = result
    for part in place[:-1]:
        owner = owner[part]
    if values:
        owner[place[-1]] = values[0]
    else:
        del owner[place[-1]]
    return result


def at(manifest: Manifest, place: Place) -> Any:
    value: Any = manifest
    for part in place:
        value = value[part]
    return value


@ANY_CHILD
def test_every_value_that_is_changed_or_taken_away_is_drift(child: Manifest) -> None:
    places = list(leaves(enforced(child)))
    assert len(places) > 10
    for place in places:
        assert differs(child, changed(child, place, "something else")), place
        if not isinstance(place[-1], int):
            assert differs(child, changed(child, place)), place


@ANY_CHILD
@given(data=st.data())
def test_what_others_add_is_no_drift(child: Manifest, data: st.DataObject) -> None:
    """Defaults, and things of another name in lists of named things, in any order."""
    actual = copy.deepcopy(child)
    for mapping in list(mappings(actual)):
        if data.draw(st.booleans()):
            mapping["addedByOthers"] = {"deep": [1]}
        for field, key in (("env", "name"), ("volumes", "name"), ("volumeMounts", "mountPath")):
            if field in mapping:
                extra = {key: "added", "value": "x"}
                mapping[field] = data.draw(st.permutations([*mapping[field], extra]))
    assert not differs(child, actual)


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for member in value:
            yield from mappings(member)


def test_a_queued_job_is_its_queues_to_suspend() -> None:
    place = ("spec", "runPolicy", "suspend")
    assert at(JOB, place) is True
    assert not differs(JOB, changed(JOB, place, False))
    assert enforced(JOB)["spec"]["runPolicy"] == {"cleanPodPolicy": "Running"}
    assert at(JOB, place) is True, "nothing was changed in place"


def test_a_live_change_waits_for_the_config_map_of_the_next_attempt() -> None:
    """An apply of other data would be refused for ever."""
    config_map = next(child for child in CHILDREN if child["kind"] == "ConfigMap")
    assert not differs(config_map, changed(config_map, ("data", "stage.json"), "{}"))
    assert differs(config_map, changed(config_map, ("metadata", "labels"), {}))
    assert "data" in config_map, "it is created with them"


def test_a_queues_tolerations_and_node_selectors_are_no_drift() -> None:
    admitted = copy.deepcopy(JOB)
    spec = admitted["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    spec["tolerations"].insert(0, {"key": "flavor", "operator": "Exists"})
    spec["nodeSelector"]["flavor"] = "spot"
    assert not differs(JOB, admitted)
    spec["tolerations"].pop()
    assert differs(JOB, admitted)


@pytest.mark.parametrize(
    ("desired", "actual", "is_drift"),
    [
        ("1000m", "1", False),
        ("0.5", "500m", False),
        ("1024Mi", "1Gi", False),
        ("1536Mi", "1.5Gi", False),
        ("1000", "1k", False),
        ("1e3", "1k", False),
        ("2E", "2000P", False),
        ("1G", "1Gi", True),
        ("1", "2", True),
        ("1", "1m", True),
        ("much", "much", False),
        ("much", "more", True),
        ("1..5", "1", True),
    ],
)
def test_quantities_are_numbers(desired: str, actual: str, is_drift: bool) -> None:
    assert differs({"limits": {"cpu": desired}}, {"limits": {"cpu": actual}}) is is_drift
    assert differs({"sizeLimit": desired}, {"sizeLimit": actual}) is is_drift


@pytest.mark.parametrize("zero", [0, False, "", [], {}])
def test_a_zero_that_the_server_drops_is_no_drift_but_another_value_is(zero: Any) -> None:
    assert not differs({"hostNetwork": zero}, {})
    assert differs({"hostNetwork": zero}, {"hostNetwork": "x"})


def test_a_zero_that_means_something_is_drift_where_it_is_missing() -> None:
    assert differs({"enableServiceLinks": False}, {})
    assert differs({"emptyDir": {}}, {"hostPath": {"path": "/"}})


def test_truth_is_not_a_number() -> None:
    assert differs({"a": True}, {"a": 1})


def test_an_added_rule_of_a_policy_is_drift() -> None:
    """It would admit somebody."""
    policy = next(child for child in CHILDREN if child["kind"] == "NetworkPolicy")
    opened = copy.deepcopy(policy)
    opened["spec"]["ingress"].append({})
    assert differs(policy, opened)
    wider = copy.deepcopy(policy)
    wider["spec"]["ingress"][0]["from"].append({"ipBlock": {"cidr": "0.0.0.0/0"}})
    assert differs(policy, wider)
