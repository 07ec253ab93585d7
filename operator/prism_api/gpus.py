"""How many GPUs this process may use, without torch, and what to say of too few."""

import ctypes
from collections.abc import Mapping
from contextlib import suppress

from prism_api.errors import FieldProblem
from prism_api.resources import Workers
from prism_api.rollout import GPUS_VARIABLE, shown_gpus


def gpu_problem(workers: Workers, needed: int, there: int, field: str) -> FieldProblem:
    """What to say where trainer processes need more GPUs than there are."""
    asked = f"replicas {workers.replicas} x gpusPerReplica {workers.gpus_per_replica}"
    problem = f"{asked}: {needed} GPUs are needed here, this machine has {there}"
    remedy = "ask for fewer, or for gpusPerReplica: 0 to train on the CPU"
    return FieldProblem(field, problem, remedy)


def count_gpus(environment: Mapping[str, str]) -> int:
    """GPUs that processes with this environment see: those it names, or all that the driver has."""
    shown = environment.get(GPUS_VARIABLE)
    if shown is not None:
        return len(shown_gpus(shown))
    count = ctypes.c_uint()
    with suppress(OSError, AttributeError):  # no driver, no GPUs
        driver = ctypes.CDLL("libnvidia-ml.so.1")
        if driver.nvmlInit_v2() == 0:
            driver.nvmlDeviceGetCount_v2(ctypes.byref(count))
    return count.value
