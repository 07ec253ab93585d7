"""FSDP2: parameters, gradients and optimizer states in parts, weights gathered layer by layer."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard

from prism_api.optimization import Optimization
from prism_trainer.distributed import Ranks
from prism_trainer.engine.gradients import squared_norm
from prism_trainer.engine.head import Float32Linear
from prism_trainer.engine.optimizer import Optimizer
from prism_trainer.engine.sharding import Pass, layers_of, set_parameters
from prism_trainer.engine.sources import TensorSource, local_part, source_of

T = TypeVar("T")


class FullySharded:
    """Every layer of text and vision is one unit of communication, all the rest is another.

    A model comes in host memory; a device has one unit of it whole at a time, to divide it.
    Masters are float32; in half precision the units are gathered in bfloat16 and gradients are
    reduced in float32.
    """

    casts = True

    def __init__(self, model: nn.Module, half_precision: bool, ranks: Ranks) -> None:
        self._ranks, self.in_step = ranks, ranks.world_size > 1
        if not dist.is_initialized():  # a process that is alone
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(store=store, rank=0, world_size=1)
        full = MixedPrecisionPolicy(cast_forward_inputs=False)
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(ranks.device.type, (ranks.world_size,)),
            "mp_policy": half if half_precision else full,
            "shard_placement_fn": self._placement,
        }
        for layer in layers_of(model):
            fully_shard(layer, **settings)
        for module in model.modules():
            if isinstance(module, Float32Linear):
                fully_shard(module, **{**settings, "mp_policy": full})
        self._pass = Pass(model)
        self._root = fully_shard(self._pass, **settings)
        for unit in self._pass.modules():
            if isinstance(unit, FSDPModule):
                unit.set_gradient_divide_factor(1.0)
                # Not every backend can divide while it sums, and there is nothing to divide.
                unit.set_force_sum_reduction_for_comms(True)
        # Between a pass and the next, a module may hold gathered weights; these are the masters.
        self._parameters: dict[str, nn.Parameter] = dict(model.named_parameters())

    def _placement(self, parameter: nn.Parameter) -> Shard | None:
        """Experts are divided inside, not among processes: there may be fewer than processes."""
        inside = parameter.dim() == 3 and parameter.shape[1] % self._ranks.world_size == 0
        return Shard(1) if inside else None

    def run(self, function: Callable[[Any], T]) -> T:
        """See Sharding."""
        result: T = self._pass(function)
        if not torch.is_grad_enabled():
            self._root.reshard()
        return result

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """See Sharding; each unit's gradients are summed over processes as they come."""
        loss.backward()

    def optimizer(self, settings: Optimization, total_steps: int, offload: bool) -> Optimizer:
        """See Sharding."""
        chosen = {name: p for name, p in self._parameters.items() if p.requires_grad}
        return Optimizer(ShardedGradients(chosen, self._ranks), settings, total_steps, offload)

    def weights(self) -> dict[str, TensorSource]:
        """See Sharding."""
        return {name: source_of(p) for name, p in self._parameters.items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """See Sharding."""
        set_parameters(self._parameters, weights)


class ShardedGradients:
    """Gradients that FSDP has summed: each process has those of its own part."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], ranks: Ranks) -> None:
        self._parameters, self._ranks = dict(parameters), ranks
        self._slots = {name: nn.Parameter(local_part(p)) for name, p in self._parameters.items()}

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """See Gradients."""
        return self._parameters

    @property
    def slots(self) -> Mapping[str, nn.Parameter]:
        """See Gradients."""
        return self._slots

    def clear(self) -> None:
        """See Gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None
        for slot in self._slots.values():
            slot.grad = None

    def sum_norm(self) -> float:
        """See Gradients."""
        for name, slot in self._slots.items():
            gradient = self._parameters[name].grad
            # A step without any pass is one with gradients of zero, as in the other engines.
            slot.grad = torch.zeros_like(slot) if gradient is None else local_part(gradient)
            self._parameters[name].grad = None
        squares = self._ranks.sum_(squared_norm(self._slots.values()))
        return math.sqrt(float(squares))

    def free(self) -> None:
        """See Gradients."""
        self.clear()

    def scale(self, factor: float) -> None:
        """See Gradients."""
        for slot in self._slots.values():
            assert slot.grad is not None, "handed over by sum_norm"
            slot.grad.mul_(factor)
