"""Names of children: legal wherever they are used, and nobody else's."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_api.names import DNS_LABEL, MAX_RUN_NAME, STAGE_ORDER, StageKind
from prism_api.stage_config import RunRef
from prism_operator.planning.naming import attempt_name, rollout_name, token_name
from run_builders import UID

RFC_1035 = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")
"""What a Service may be called, and so what a PyTorchJob may."""
LONGEST = "a" * MAX_RUN_NAME

run_names = st.one_of(
    st.from_regex(DNS_LABEL, fullmatch=True).filter(lambda name: len(name) <= MAX_RUN_NAME),
    st.text("a1-", min_size=1, max_size=MAX_RUN_NAME).filter(re.compile(DNS_LABEL).fullmatch),
    st.text("ab", min_size=MAX_RUN_NAME, max_size=MAX_RUN_NAME),
)
kinds = st.sampled_from(STAGE_ORDER)
attempts = st.integers(1, 10**7)


def a_run(name: str, uid: str = UID) -> RunRef:
    return RunRef(namespace="default", name=name, uid=uid)


@given(run_names, kinds, attempts)
def test_names_are_legal_and_short_enough_for_what_others_append(
    name: str, kind: StageKind, attempt: int
) -> None:
    run = a_run(name)
    job = attempt_name(run, kind, attempt)
    assert len(f"{job}-worker-999") <= 63
    others = [rollout_name(run, kind), token_name(run)]
    for child in [job, *others]:
        assert RFC_1035.fullmatch(child)
        assert len(child) <= 63


Child = tuple[str, StageKind, int]


@given(st.lists(st.tuples(run_names, kinds, attempts), min_size=2, max_size=8, unique=True))
def test_no_two_attempts_share_a_name(children: list[Child]) -> None:
    names = [attempt_name(a_run(name), kind, n) for name, kind, n in children]
    assert len(set(names)) == len(names)


@given(st.lists(st.tuples(run_names, kinds), min_size=2, max_size=8, unique=True))
def test_no_two_stages_share_servers(children: list[tuple[str, StageKind]]) -> None:
    names = [rollout_name(a_run(name), kind) for name, kind in children]
    assert len(set(names)) == len(names)


def test_most_names_are_what_a_person_expects() -> None:
    run = a_run("qwen3-vl-4b")
    assert attempt_name(run, "align", 12) == "qwen3-vl-4b-align-a12"
    assert rollout_name(run, "align") == "qwen3-vl-4b-align-rollout"
    assert token_name(run) == f"qwen3-vl-4b-{UID[:8]}-rollout"


def test_the_longest_run_names_have_room_for_a_thousand_attempts() -> None:
    assert attempt_name(a_run(LONGEST), "align", 9999) == f"{LONGEST}-align-a9999"


@pytest.mark.parametrize("name", [LONGEST, "7b-" + "a" * 37, "7b"])
def test_a_name_that_does_not_fit_keeps_its_beginning_and_its_end(name: str) -> None:
    child = attempt_name(a_run(name), "align", 10000)
    assert re.fullmatch(rf"run-{name[:2]}.*-[0-9a-f]{{10}}-align-a10000", child)
    assert attempt_name(a_run(name), "align", 10000) == child


def test_runs_that_begin_alike_differ_where_they_are_cut() -> None:
    one, other = (attempt_name(a_run(LONGEST[:-1] + last), "align", 10**4) for last in "bc")
    assert one != other


def test_another_run_of_the_same_name_has_another_token() -> None:
    other = a_run("run", "aaaaaaaa-1b7d-4e58-8a64-2f9d0c5b7e11")
    assert token_name(a_run("run")) != token_name(other)
