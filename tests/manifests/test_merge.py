"""A user's part of a pod template in ours."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from child_builders import TEMPLATE, large_children, pod_template_of
from prism_operator.manifests.context import Manifest
from prism_operator.manifests.drift import differs
from prism_operator.manifests.merge import merged
from prism_operator.manifests.templates import template_problems

BASE = pod_template_of(large_children(template={})[-1])
TEXTS = st.sampled_from(["a", "b", "scratch", "HOME", "/scratch", "/data", "1Gi"])


def named(key: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Manifest]]:
    """Lists of things with a name each."""
    members = st.fixed_dictionaries({key: TEXTS}, optional=fields)
    return st.lists(members, max_size=3, unique_by=lambda member: member[key])


CONTAINER: st.SearchStrategy[Manifest] = st.fixed_dictionaries(
    {"name": st.sampled_from(["pytorch", "sidecar"])},
    optional={
        "env": named("name", value=TEXTS),
        "volumeMounts": named("mountPath", name=TEXTS),
        "resources": st.fixed_dictionaries(
            {"limits": st.dictionaries(st.sampled_from(["cpu", "memory"]), TEXTS)}
        ),
    },
)
SPEC = st.fixed_dictionaries(
    {},
    optional={
        "nodeSelector": st.dictionaries(TEXTS, TEXTS),
        "tolerations": st.lists(st.fixed_dictionaries({"key": TEXTS}), max_size=2),
        "terminationGracePeriodSeconds": st.integers(0, 900),
        "securityContext": st.fixed_dictionaries({}, optional={"runAsUser": st.integers(1, 9)}),
        "volumes": named("name", emptyDir=st.just({})),
        "containers": st.lists(CONTAINER, max_size=2, unique_by=lambda one: one["name"]),
    },
)
FRAGMENTS = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries({"labels": st.dictionaries(TEXTS, TEXTS)}),
        "spec": SPEC,
    },
)


def ours(template: Manifest) -> Manifest:
    """Our container."""
    container: Manifest = template["spec"]["containers"][0]
    return container


def test_without_a_fragment_nothing_changes() -> None:
    assert merged(BASE, {}) == BASE


@given(FRAGMENTS)
def test_what_the_fragment_says_is_so(fragment: Manifest) -> None:
    assert not template_problems(fragment, "$", "pytorch")
    result = merged(BASE, fragment)
    assert not differs(fragment, result)


@given(FRAGMENTS)
def test_a_second_time_changes_nothing_and_neither_part_is_changed(fragment: Manifest) -> None:
    base, given_fragment = copy.deepcopy(BASE), copy.deepcopy(fragment)
    result = merged(base, fragment)
    assert merged(result, fragment) == result
    assert (base, fragment) == (BASE, given_fragment)


@given(FRAGMENTS)
def test_what_the_fragment_does_not_name_stays(fragment: Manifest) -> None:
    result = merged(BASE, fragment)
    assert ours(result)["command"] == ours(BASE)["command"]
    assert BASE["metadata"]["labels"].items() <= result["metadata"]["labels"].items()
    for field, names in (("volumes", "name"), ("containers", "name")):
        said = {member[names] for member in fragment.get("spec", {}).get(field, [])}
        for member in BASE["spec"][field]:
            assert member[names] in said or member in result["spec"][field]


@given(FRAGMENTS)
def test_no_name_is_in_a_list_twice(fragment: Manifest) -> None:
    result = merged(BASE, fragment)
    lists = [
        [volume["name"] for volume in result["spec"]["volumes"]],
        [container["name"] for container in result["spec"]["containers"]],
        [variable["name"] for variable in ours(result)["env"]],
        [mount["mountPath"] for mount in ours(result)["volumeMounts"]],
    ]
    for names in lists:
        assert len(names) == len(set(names))


def test_a_volume_is_replaced_as_a_whole() -> None:
    """Two sources of one volume would be refused."""
    claim = {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}
    result = merged(BASE, {"spec": {"volumes": [claim]}})
    assert result["spec"]["volumes"][0] == claim
    assert ours(result)["volumeMounts"] == ours(BASE)["volumeMounts"]


def test_a_variable_is_replaced_as_a_whole() -> None:
    own = {"name": "AWS_ACCESS_KEY_ID", "value": "a"}
    container = {"name": "pytorch", "env": [own]}
    result = merged(BASE, {"spec": {"containers": [container]}})
    assert [one for one in ours(result)["env"] if one["name"] == own["name"]] == [own]


def test_gpus_stay_beside_what_a_template_asks_for() -> None:
    result = merged(BASE, TEMPLATE)
    assert ours(result)["resources"] == {
        "limits": {"nvidia.com/gpu": "8"},
        "requests": {"cpu": "0.5", "memory": "1024Mi"},
    }


def test_other_lists_are_replaced() -> None:
    container = {"name": "pytorch", "securityContext": {"capabilities": {"drop": ["NET_RAW"]}}}
    result = merged(BASE, {"spec": {"containers": [container]}})
    assert ours(result)["securityContext"]["capabilities"] == {"drop": ["NET_RAW"]}
