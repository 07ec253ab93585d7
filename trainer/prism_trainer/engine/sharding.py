"""How a network lies over the processes: the one place where the engines differ.

Losses are divided by counts over all processes beforehand, so every engine sums gradients and none
averages them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from prism_api.optimization import Optimization
from prism_api.resources import Engine, engine_in_use
from prism_trainer.distributed import Ranks
from prism_trainer.engine.gradients import FlatGradients
from prism_trainer.engine.optimizer import Optimizer, Stepper
from prism_trainer.engine.sources import TensorSource, local_part, part_of, source_of

T = TypeVar("T")


class Sharding(Protocol):
    """One network's weights, gradients and optimizer states over all processes."""

    in_step: bool
    """Whether all processes must make the same passes, because a pass gathers weights."""
    casts: bool
    """Whether a pass has weights of the compute precision; if not, autocast is needed."""

    def run(self, function: Callable[[Any], T]) -> T:
        """A pass: call `function` with the model, its weights in place."""

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add the loss's gradients to those of the step; `is_last` of the step's passes."""

    def optimizer(self, settings: Optimization, total_steps: int, offload: bool) -> Stepper:
        """A fresh optimizer of the trained parameters, its states on the host between steps if
        asked for."""

    def weights(self) -> dict[str, TensorSource]:
        """Parameters by name, as float32 masters."""

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Set parameters from whole tensors: all of them, or all that are trained."""


class Pass(nn.Module):
    """The module that every pass goes through, so that an engine sees where one starts and
    ends."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[Any], T]) -> T:
        """Call the function with the model."""
        return function(self.model)


class Replicated:
    """Everything whole in each process."""

    in_step = False
    casts = False

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._model, self._ranks = model.to(ranks.device), ranks

    def run(self, function: Callable[[Any], T]) -> T:
        """See Sharding."""
        return function(self._model)

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """See Sharding; gradients are summed over processes once per step, by the optimizer."""
        loss.backward()

    def optimizer(self, settings: Optimization, total_steps: int, offload: bool) -> Optimizer:
        """See Sharding."""
        gradients = FlatGradients(trained(self._model), self._ranks)
        return Optimizer(gradients, settings, total_steps, offload)

    def weights(self) -> dict[str, TensorSource]:
        """See Sharding."""
        return {name: source_of(p) for name, p in self._model.named_parameters()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """See Sharding."""
        set_parameters(dict(self._model.named_parameters()), weights)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are not frozen, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def layers_of(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The layers of the text and vision towers."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def check_names(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise unless there is a weight for each parameter, or for each that is trained."""
    chosen = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if weights.keys() not in (parameters.keys(), chosen):
        names = sorted(parameters.keys() ^ weights.keys())
        raise RuntimeError(f"weights differ from the model's: {', '.join(names[:5])}")


def set_parameters(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into parameters that may be sharded: into all, or all that are
    trained."""
    check_names(parameters, weights)
    with torch.no_grad():
        for name, tensor in weights.items():
            local_part(parameters[name]).copy_(part_of(tensor, parameters[name]))


def checkpoint_layers(model: nn.Module) -> None:
    """Have every layer recompute its activations in the backward pass instead of keeping them."""
    for layer in layers_of(model):
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def shard(model: nn.Module, engine: Engine, half_precision: bool, ranks: Ranks) -> Sharding:
    """Lay a model out as the engine does, on the process's device.

    It comes in host memory: a device may have no room for all that is going to be in parts.
    A process that is alone keeps it whole, unless weights must be cast for each pass: then FSDP
    does that layer by layer, where autocast would keep a second copy of them all.
    """
    engine = engine_in_use(engine, "bf16" if half_precision else "fp32", ranks.world_size)
    if engine == "replicated":
        return Replicated(model, ranks)
    if engine != "fsdp2":
        from prism_trainer.engine.zero import Zero

        return Zero(model, 2 if engine == "deepspeed-zero2" else 3, half_precision, ranks)
    from prism_trainer.engine.fsdp import FullySharded

    return FullySharded(model, half_precision, ranks)
