"""Trainer processes and the GPUs of this machine, before anything starts."""

import pytest

from prism_api.errors import SpecError
from prism_operator.local.preflight import check_gpus
from run_builders import Changes, a_plan


def problems(changes: Changes, count: int) -> list[str]:
    """Fields of stages that a machine of so many GPUs refuses."""
    configs = [step.config(1, None) for step in a_plan(changes).train_steps]
    try:
        check_gpus(configs, count)
    except SpecError as error:
        return [problem.path for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("count", "refused"), [(4, []), (3, ["rlvr"]), (1, ["rlvr"]), (0, ["sft", "align", "rlvr"])]
)
def test_every_stage_is_asked_how_many_gpus_it_needs(count: int, refused: list[str]) -> None:
    changes: Changes = {
        "spec.workers": {"gpusPerReplica": 1},
        "spec.stages.rlvr.workers": {"replicas": 2, "gpusPerReplica": 2},
    }
    assert problems(changes, count) == [f"stages.{kind}.workers.gpusPerReplica" for kind in refused]


def test_the_cpu_is_always_there() -> None:
    assert problems({"spec.workers": {"replicas": 4}}, 0) == []
