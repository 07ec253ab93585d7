"""The processes of one stage: who am I, sums over all of us, and nothing else."""

import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from prism_api.errors import RendezvousError, SpecError
from prism_api.gpus import gpu_problem
from prism_api.resources import Rollout, Workers, on_servers
from prism_api.rollout import LONGEST_WAIT_SECONDS

T = TypeVar("T")
_LONGEST_START_SECONDS = 600.0
"""From torchrun's start until a process joins the others: it imports, and loads no model yet."""
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
    store, rank, world_size = next(rendezvous("env://"))
    await_peers(store, rank, world_size)
    store.set_timeout(patience(rollout))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=patience(rollout),
    )
    return Ranks(dist.get_rank(), world_size, device)


def await_peers(
    store: Store, rank: int, world_size: int, patience_seconds: float = _LONGEST_START_SECONDS
) -> None:
    """Return when all processes have come; raises RendezvousError naming those who have not.

    They come together but for their imports, whereas one that died before it was connected with the
    others would be waited for as long as a checkpoint takes.
    """
    store.set(f"prism-joined-{rank}", "")
    deadline = time.monotonic() + patience_seconds
    for peer in range(world_size):
        left = max(0.001, deadline - time.monotonic())
        try:
            store.wait([f"prism-joined-{peer}"], timedelta(seconds=left))
        except dist.DistError as error:
            raise RendezvousError(
                f"process {peer} of {world_size} has not joined within {patience_seconds:g} s; see "
                "how it, or its pod, ended"
            ) from error


def leave() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()
