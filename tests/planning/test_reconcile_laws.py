"""Laws of the whole reconcile: whatever a cluster, a user and a dying operator do, these hold.

The machine plays all three (support/reconcile_machine.py); the laws are in
support/reconcile_laws.py.
"""

from typing import Any

import pytest
from hypothesis import settings

from prism_api.names import STAGE_ORDER
from prism_api.status import State
from reconcile_laws import ASKS_FOR_CHANGES
from reconcile_machine import World

World.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


TestLaws = World.TestCase
"""Hypothesis runs the machine through unittest."""


# A machine that never gets there would prove nothing.


def a_world(**facts: Any) -> World:
    world = World()
    world.begin(**facts)
    return world


def test_a_run_of_three_stages_costs_ten_status_writes() -> None:
    """Its start; then of each stage that its gang runs, its first step, and its proof together
    with the start of the next one."""
    world = a_world()
    for _ in range(2 * len(STAGE_ORDER)):
        world.all_goes_well()

    assert world.operator.status.state is State.SUCCEEDED
    assert world.operator.writes == 1 + 3 * len(STAGE_ORDER)
    assert sorted(world.created.values()) == [1, 1, 1]
    assert not world.cluster.jobs or all(j.is_deleting for j in world.cluster.jobs.values())


def test_a_stage_that_lost_its_machines_goes_on_with_its_next_attempt() -> None:
    world = a_world(preemptions=1)
    world.all_goes_well_for_a_while()
    world.a_pod_is_taken_away(0, "evicted")
    world.all_goes_well_for_a_while()
    world.all_goes_well_for_a_while()
    stage = world.operator.status.stages["sft"]

    assert stage.attempt is not None
    assert stage.attempt.number == 2
    assert (stage.restarts.faults, stage.restarts.preemptions) == (0, 1)
    assert world.running()
    assert set(world.created) == {"run-sft-a1", "run-sft-a2"}


def test_faults_end_at_their_budget() -> None:
    world = a_world(restarts=1, replicas=1)
    for _ in range(2):
        world.all_goes_well_for_a_while()
        world.all_goes_well_for_a_while()
        world.a_pod_fails(0, 1)
    world.looks_until_nothing_is_to_do()
    status = world.operator.status

    assert status.state is State.FAILED
    assert status.restarts == 1
    assert "failed 2 times" in status.message


@pytest.mark.parametrize("code", ASKS_FOR_CHANGES)
def test_what_would_fail_again_waits_for_a_change(code: int) -> None:
    world = a_world(restarts=0, replicas=1)
    world.all_goes_well_for_a_while()
    world.a_pod_fails(0, code)
    world.looks_until_nothing_is_to_do()
    expected = State.BLOCKED if code == 73 else State.FAILED
    assert world.operator.status.state is expected

    world.the_user_changes_an_image(1)
    world.all_goes_well_for_a_while()
    world.all_goes_well_for_a_while()

    assert world.operator.status.state is State.RUNNING
    assert world.running()
    assert world.operator.status.stages["sft"].restarts.faults == 0


def state_of(world: World) -> State:
    return world.operator.status.state


def test_a_suspended_run_holds_nothing_and_goes_on_where_it_was() -> None:
    world = a_world()
    world.all_goes_well()
    world.all_goes_well_for_a_while()
    assert world.operator.status.current_stage == "align"
    world.the_user_suspends_or_resumes(True)
    world.looks_until_nothing_is_to_do()
    assert state_of(world) is State.STOPPING
    world.cluster.collect()
    world.looks_until_nothing_is_to_do()
    assert state_of(world) is State.STOPPING, "its pods still run"
    world.cluster.end_deleted(with_word=False)
    world.looks_until_nothing_is_to_do()
    assert state_of(world) is State.SUSPENDED
    world.cluster.collect()
    assert not world.cluster.jobs
    assert not world.cluster.servers

    world.the_user_suspends_or_resumes(False)
    world.all_goes_well_for_a_while()

    assert world.operator.status.current_stage == "align"
    assert world.operator.status.restarts == 1


def test_a_job_that_was_deleted_before_it_trained_is_made_again_once_its_pods_are_gone() -> None:
    world = a_world(replicas=2)
    world.looks_until_nothing_is_to_do()
    world.cluster.control()
    world.pods_start(0)
    world.a_job_is_ended(0, "deleted")
    world.cluster.collect()
    world.looks_until_nothing_is_to_do()
    assert world.created == {"run-sft-a1": 1}

    world.cluster.end_deleted(with_word=False)
    world.looks_until_nothing_is_to_do()

    assert world.created == {"run-sft-a1": 2}
    assert world.operator.status.restarts == 0
