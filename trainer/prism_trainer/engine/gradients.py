"""Gradients of one step that lie whole in each process."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from prism_trainer.distributed import Ranks


class FlatGradients:
    """Whole gradients in each process, as views of one flat float32 buffer, so that summing over
    processes, norm and scaling are one operation each."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], ranks: Ranks) -> None:
        self.parameters, self._ranks = dict(parameters), ranks
        self._buffer = self._flat()

    def _flat(self) -> Tensor:
        parameters = list(self.parameters.values())
        sizes = [p.numel() for p in parameters]
        buffer = torch.zeros(sum(sizes), device=parameters[0].device)
        for parameter, part in zip(parameters, buffer.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        return buffer

    def clear(self) -> None:
        """See Gradients."""
        self._buffer.zero_()

    @property
    def slots(self) -> Mapping[str, nn.Parameter]:
        """See Gradients."""
        return self.parameters

    def sum_norm(self) -> float:
        """See Gradients."""
        self._ranks.sum_(self._buffer)
        return math.sqrt(float(squared_norm(self.parameters.values())))

    def free(self) -> None:
        """See Gradients; the buffer stays."""

    def scale(self, factor: float) -> None:
        """See Gradients."""
        self._buffer.mul_(factor)


def squared_norm(slots: Iterable[nn.Parameter]) -> Tensor:
    """Squared norm of all gradients together, in float64: one float32 sum over millions of numbers
    would depend on how they lie."""
    gradients = [slot.grad for slot in slots if slot.grad is not None]
    norms = torch._foreach_norm(gradients)
    return torch.stack(list(norms)).double().square().sum()
