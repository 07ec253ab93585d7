"""Importance weights for responses that rollout servers sampled, whose log-probabilities differ
from the trainer's (truncated importance sampling and its relatives).

Shapes: T tokens of all responses of a pack, one after the other.
"""

import torch
from torch import Tensor

from prism_api.reinforcement import RolloutCorrection

_MAX_LOG_WEIGHT = 20.0
"""So that weights are finite before they are bounded; above every maxWeight."""


def rollout_weights(
    gap: Tensor, response_index: Tensor, num_responses: int, settings: RolloutCorrection
) -> tuple[Tensor, Tensor]:
    """Factor of each token's loss, and whether a bound changed it; both [T].

    gap [T]: the trainer's log-probabilities minus the server's, detached; response_index [T]. A
    token that the trainer holds for impossible has weight 0.
    """
    if settings.level == "sequence":
        sums = gap.new_zeros(num_responses).index_add(0, response_index, gap)
        gap = sums.index_select(0, response_index)
    weights = gap.clamp(max=_MAX_LOG_WEIGHT).exp()
    bounded = weights.clamp(settings.min_weight, settings.max_weight)
    is_cut = bounded != weights
    return (bounded if settings.mode == "clamp" else weights.masked_fill(is_cut, 0.0)), is_cut


def rollout_divergence(gap: Tensor) -> Tensor:
    """k3 estimate of KL(server, trainer) per token that the server sampled, [T]."""
    clamped = gap.clamp(-_MAX_LOG_WEIGHT, _MAX_LOG_WEIGHT)
    return torch.expm1(clamped) - clamped
