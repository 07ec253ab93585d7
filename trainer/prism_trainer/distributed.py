"""The processes of one stage: who am I, sums over all of us, and nothing else."""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from prism_api.errors import SpecError
from prism_api.gpus import gpu_problem
from prism_api.resources import Rollout, Workers, on_servers
from prism_api.rollout import LONGEST_WAIT_SECONDS

T = TypeVar("T")
_LONGEST_SAVE_SECONDS = 2 * 3600.0
"""A checkpoint of hundreds of gigabytes, which the first process writes."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process writes what only one should write."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_floats(self, *values: float) -> list[float]:
        """Sums of plain numbers over all processes, in one exchange, in float64."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        result: list[float] = self.sum_(tensor).tolist()
        return result

    def most(self, value: int) -> int:
        """The largest value of any process."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor(value, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.sum_floats(float(flag))[0] > 0

    def gather(self, value: T) -> list[T]:
        """The value of every process, in rank order, in every process."""
        if self.world_size == 1:
            return [value]
        values: list[T | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()


def device_of(
    workers: Workers, local_rank: int, local_processes: int, local_gpus: int
) -> torch.device:
    """Where one of this machine's processes computes: on the GPU of its number, if GPUs are asked
    for, otherwise on the CPU.

    Raises SpecError if there are not enough GPUs for each process to have one of its own.
    """
    if workers.gpus_per_replica == 0:
        return torch.device("cpu")
    if local_processes > local_gpus:
        field = "workers.gpusPerReplica"
        raise SpecError([gpu_problem(workers, local_processes, local_gpus, field)])
    return torch.device("cuda", local_rank)


def patience(rollout: Rollout | None) -> timedelta:
    """How long a process waits for the others, one of which may wait for rollout servers or write
    a checkpoint meanwhile. One that ends is noticed at once: torchrun ends the others."""
    served = LONGEST_WAIT_SECONDS if on_servers(rollout) else 0.0
    return timedelta(seconds=max(_LONGEST_SAVE_SECONDS, served))


def join(workers: Workers, rollout: Rollout | None = None) -> Ranks:
    """Join the processes that torchrun started, or be alone without it; see `device_of` and
    `patience`."""
    device = device_of(
        workers,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        local_gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
    )
    torch.set_num_threads(workers.threads_per_process)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Only reads of uninitialised memory would need the filling, and it costs 7 % of a small step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks(device=device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=patience(rollout))
    return Ranks(dist.get_rank(), world_size, device)


def leave() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()
