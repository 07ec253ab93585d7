"""Which process computes where: what the run asks for decides, not what the machine has."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_builders import build_model, packed
from prism_api.errors import SpecError
from prism_api.exit_codes import ExitCode
from prism_api.resources import Workers
from prism_trainer import distributed
from prism_trainer.distributed import Ranks, device_of
from prism_trainer.engine.policy import Policy

COUNTS = st.integers(1, 8)


def on_one_machine(workers: Workers, gpus: int) -> list[torch.device]:
    """The devices of all processes of a local run."""
    count = workers.world_size
    return [device_of(workers, rank, count, gpus) for rank in range(count)]


@given(replicas=COUNTS, gpus=st.integers(0, 80))
def test_without_gpus_asked_for_every_process_computes_on_the_cpu(replicas: int, gpus: int) -> None:
    devices = on_one_machine(Workers(replicas=replicas), gpus)
    assert devices == [torch.device("cpu")] * replicas


@given(replicas=COUNTS, per_replica=COUNTS, gpus=st.integers(0, 80))
def test_every_process_has_a_gpu_of_its_own_or_none_starts(
    replicas: int, per_replica: int, gpus: int
) -> None:
    workers = Workers(replicas=replicas, gpus_per_replica=per_replica)
    if replicas * per_replica > gpus:
        for rank in range(workers.world_size):
            with pytest.raises(SpecError):
                device_of(workers, rank, workers.world_size, gpus)
    else:
        devices = on_one_machine(workers, gpus)
        assert [(d.type, d.index) for d in devices] == [
            ("cuda", i) for i in range(replicas * per_replica)
        ]


@pytest.mark.parametrize(("replicas", "per_replica"), [(1, 2), (2, 1)])
def test_two_gpus_are_two_processes_whatever_their_pods(replicas: int, per_replica: int) -> None:
    workers = Workers(replicas=replicas, gpus_per_replica=per_replica)
    assert on_one_machine(workers, 2) == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_a_pod_needs_only_its_own_gpus() -> None:
    workers = Workers(replicas=4, gpus_per_replica=2)
    assert device_of(workers, 1, local_processes=2, local_gpus=2) == torch.device("cuda", 1)


def test_too_few_gpus_are_refused_with_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(SpecError) as caught:
        distributed.join(Workers(replicas=2, gpus_per_replica=2))
    assert caught.value.exit_code == ExitCode.BAD_CONFIG
    assert str(caught.value) == (
        "workers.gpusPerReplica: replicas 2 x gpusPerReplica 2: 4 GPUs are needed here, this "
        "machine has 0; ask for fewer, or for gpusPerReplica: 0 to train on the CPU"
    )


def test_an_engine_takes_a_model_from_host_memory_to_its_device() -> None:
    """Whoever loads a model leaves it there, for a device may only have room for a part of it."""
    model = packed(build_model())
    assert {tensor.device.type for tensor in model.buffers()} == {"cpu"}
    Policy(model, Ranks(device=torch.device("meta")), "fp32", 100)
    for tensors in (model.parameters(), model.buffers()):
        assert {tensor.device.type for tensor in tensors} == {"meta"}
