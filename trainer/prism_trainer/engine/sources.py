"""Tensors that may lie in parts over the processes: how to have one whole, how to put one back."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True)
class TensorSource:
    """A tensor that can be had whole; all processes must ask for it together."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    """The whole tensor, detached; in parts elsewhere, it is gathered here."""


def source_of(tensor: Tensor) -> TensorSource:
    """A source for a plain tensor, or for one that is sharded over processes."""
    return TensorSource(tuple(tensor.shape), tensor.dtype, lambda: _whole(tensor.detach()))


def cast(source: TensorSource, dtype: torch.dtype) -> TensorSource:
    """The same in another precision."""
    return TensorSource(source.shape, dtype, lambda: source.read().to(dtype))


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """What of it lies in this process; shares its memory."""
    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached


def source_of_part(part: Tensor, like: Tensor) -> TensorSource:
    """A source for a tensor that lies over the processes as `like` does, of which `part` is here.

    The part may lie in host memory; it goes to the device of `like` only while it is read.
    """
    if not isinstance(like, DTensor):
        return source_of(part)

    def read() -> Tensor:
        here = part.to(like.device)
        return DTensor.from_local(
            here, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
        ).full_tensor()

    return TensorSource(tuple(like.shape), part.dtype, read)


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, for something that lies as `like` does."""
    if not isinstance(like, DTensor):
        return whole.to(like.device)
    mesh = like.device_mesh
    # Every process has the whole tensor: without a source rank nothing is sent.
    spread = distribute_tensor(whole.to(like.device), mesh, like.placements, src_data_rank=None)
    return spread.to_local()
