"""Two processes compute what one does, under every engine, however uneven their shares are.

In float32 to rounding, in bfloat16 roughly; the cases and their shares are in `engine_cases`.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import engines_under_torchrun
from engine_cases import CASES, IN_HALF_PRECISION, Outcome
from prism_trainer.distributed import Ranks

pytestmark = pytest.mark.slow

ENGINES = [
    "replicated",
    "fsdp2",
    pytest.param("deepspeed-zero2", marks=pytest.mark.references),
    pytest.param("deepspeed-zero3", marks=pytest.mark.references),
]
TOLERANCE = 1e-5
HALF_TOLERANCE = 0.05
"""Engines round in other places."""


@cache
def by_one(case: str) -> Outcome:
    return CASES[case]("replicated", Ranks())


@pytest.fixture(scope="module", params=ENGINES)
def by_two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outcome of every case."""
    out = tmp_path_factory.mktemp(request.param)
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = str(Path(engines_under_torchrun.__file__))
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, script, request.param, str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,  # processes that wait for each other wait for ever
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_does(case: str, by_two: Path) -> None:
    two: Outcome = torch.load(by_two / f"{case}.pt", weights_only=False)
    one = by_one(case)
    tolerance = HALF_TOLERANCE if case in IN_HALF_PRECISION else TOLERANCE
    assert two.losses == pytest.approx(one.losses, abs=tolerance, rel=tolerance)
    assert two.norms == pytest.approx(one.norms, abs=tolerance, rel=tolerance)
    if case in IN_HALF_PRECISION:
        assert direction(two.gradients, one.gradients) > 0.99
    else:
        assert_close(two.gradients, one.gradients, tolerance)
    # Adam turns the rounding of a gradient next to 0 into a visible step.
    assert_close(two.weights, one.weights, max(tolerance, 1e-4))
    assert two.values.keys() == one.values.keys()
    for name, value in one.values.items():
        if isinstance(value, bool):
            assert two.values[name] is value is True, name
        else:
            torch.testing.assert_close(two.values[name], value, msg=name)
    assert one.gradients or one.values


def direction(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Cosine between all gradients together."""
    assert ours.keys() == theirs.keys()
    mine, expected = (
        torch.cat([x[name].double().flatten() for name in theirs]) for x in (ours, theirs)
    )
    return float(cosine_similarity(mine, expected, dim=0))


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    scale: Any = max([float(t.norm()) for t in theirs.values()], default=1.0)
    for name, tensor in theirs.items():
        # A tensor that is rounding noise in itself (a key's bias) is held to the others' size.
        size = max(float(tensor.norm()), 0.01 * scale)
        assert float((ours[name] - tensor).norm()) < tolerance * size, name
