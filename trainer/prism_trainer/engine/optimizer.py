"""AdamW over one flat gradient buffer, its schedule, and clipping by the global norm."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prism_api.errors import NonFiniteLoss
from prism_api.optimization import Optimization
from prism_trainer.distributed import Ranks


def learning_rate(settings: Optimization, step: int, total_steps: int) -> float:
    """Learning rate of the 0-based step: linear warm-up, then constant or cosine to zero."""
    warmup = settings.warmup_steps_of(total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - warmup) / max(1, total_steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class Optimizer:
    """Steps a set of parameters; gradients are summed over all processes in one exchange.

    A trained parameter's `.grad` is a view of one flat float32 buffer, so that reducing, norm and
    clipping are one operation each.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        settings: Optimization,
        total_steps: int,
        ranks: Ranks,
    ) -> None:
        self.settings, self.total_steps, self.ranks = settings, total_steps, ranks
        self.parameters = list(parameters)
        self._buffer = self._flat_gradients()
        groups = [
            {
                "params": [p for p in self.parameters if p.dim() >= 2],
                "weight_decay": settings.weight_decay,
            },
            {"params": [p for p in self.parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self._adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)

    def _flat_gradients(self) -> Tensor:
        sizes = [p.numel() for p in self.parameters]
        buffer = torch.zeros(sum(sizes), device=self.parameters[0].device)
        for parameter, part in zip(self.parameters, buffer.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        return buffer

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._buffer.zero_()

    def step(self, step: int, loss: float) -> tuple[float, float]:
        """Sum gradients over processes, clip, update; returns gradient norm and learning rate.

        Raises NonFiniteLoss, in every process and before anything changes, if the loss or a
        gradient is not finite in any.
        """
        self.ranks.sum_(self._buffer)
        norm = float(self._buffer.norm())
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise NonFiniteLoss(
                f"step {step}: loss {loss}, gradient norm {norm}; weights are unchanged. "
                "Lower the learning rate, or look for broken samples in the data"
            )
        limit = self.settings.grad_clip
        if limit and norm > limit:
            self._buffer.mul_(limit / (norm + 1e-6))
        rate = learning_rate(self.settings, step, self.total_steps)
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()
        return norm, rate

    def state(self, names: dict[Tensor, str]) -> dict[str, Tensor]:
        """Moments and step counts by parameter name."""
        return {
            f"{names[parameter]}.{key}": value
            for parameter, slots in self._adamw.state.items()
            for key, value in slots.items()
        }

    def load_state(self, state: dict[str, Tensor], names: dict[Tensor, str]) -> None:
        """Restore what `state` gave."""
        if not state:
            return
        for parameter in self.parameters:
            self._adamw.state[parameter] = {
                key: state[f"{names[parameter]}.{key}"].to(parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
