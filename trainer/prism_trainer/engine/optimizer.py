"""AdamW, its schedule, and clipping by the global norm."""

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from prism_api.errors import NonFiniteLoss
from prism_api.optimization import Optimization
from prism_trainer.engine.offload import HostStates
from prism_trainer.engine.sources import TensorSource, part_of, source_of, source_of_part


def learning_rate(settings: Optimization, step: int, total_steps: int) -> float:
    """Learning rate of the 0-based step: linear warm-up, then constant or cosine to zero."""
    warmup = settings.warmup_steps_of(total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - warmup) / max(1, total_steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def not_finite(step: int, loss: float, norm: float) -> NonFiniteLoss:
    """The error of a step that was not taken."""
    return NonFiniteLoss(
        f"step {step}: loss {loss}, gradient norm {norm}; weights are unchanged. "
        "Lower the learning rate, or look for broken samples in the data"
    )


class Stepper(Protocol):
    """What a network needs of an optimizer; see Optimizer."""

    def zero_grad(self) -> None:
        """Forget all gradients."""

    def step(self, step: int, loss: float) -> tuple[float, float]:
        """Update, unless something is not finite; returns gradient norm and learning rate."""

    def state(self) -> dict[str, TensorSource]:
        """Moments and step counts by parameter name; empty before the first step."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave, from whole tensors."""


class Gradients(Protocol):
    """The gradients of one step, wherever they lie."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Trained parameters by name; they may be sharded."""

    @property
    def slots(self) -> Mapping[str, nn.Parameter]:
        """By the same names, what lies of them in this process: same memory, plain tensors."""

    def clear(self) -> None:
        """Forget them."""

    def sum_norm(self) -> float:
        """Sum over processes and hand them to the slots; returns the global norm."""

    def scale(self, factor: float) -> None:
        """Multiply the slots' gradients by a factor."""

    def free(self) -> None:
        """After a step: give back their memory, if that is of use."""


class Optimizer:
    """Steps the trained parameters of one network."""

    def __init__(
        self,
        gradients: Gradients,
        settings: Optimization,
        total_steps: int,
        offload: bool = False,
    ) -> None:
        self.settings, self.total_steps = settings, total_steps
        self._gradients = gradients
        slots = list(gradients.slots.values())
        self._host = HostStates(slots[0].device) if offload else None
        groups = [
            {"params": [p for p in slots if p.dim() >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in slots if p.dim() < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self._adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._gradients.clear()

    def step(self, step: int, loss: float) -> tuple[float, float]:
        """Sum gradients over processes, clip, update; returns gradient norm and learning rate.

        Raises NonFiniteLoss, in every process and before anything changes, if the loss or a
        gradient is not finite in any.
        """
        if self._host is not None:
            self._host.fetch(self._adamw.state)
        norm = self._gradients.sum_norm()
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise not_finite(step, loss, norm)
        limit = self.settings.grad_clip
        if limit and norm > limit:
            self._gradients.scale(limit / (norm + 1e-6))
        rate = learning_rate(self.settings, step, self.total_steps)
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        self._gradients.free()
        if self._host is not None:
            self._host.put_away(self._adamw.state)
        return norm, rate

    def state(self) -> dict[str, TensorSource]:
        """Moments and step counts by parameter name; empty before the first step."""
        if self._host is not None:
            self._host.wait()
        state: dict[str, TensorSource] = {}
        for name, slot in self._gradients.slots.items():
            like = self._gradients.parameters[name]
            for key, value in self._adamw.state.get(slot, {}).items():
                source = source_of(value) if key == "step" else source_of_part(value, like)
                state[f"{name}.{key}"] = source
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave, from whole tensors."""
        if not state:
            return
        for name, slot in self._gradients.slots.items():
            like = self._gradients.parameters[name]
            self._adamw.state[slot] = {
                "step": state[f"{name}.step"].to(slot.device),
                "exp_avg": part_of(state[f"{name}.exp_avg"], like),
                "exp_avg_sq": part_of(state[f"{name}.exp_avg_sq"], like),
            }
        if self._host is not None:
            self._host.put_away(self._adamw.state)
