"""Group-relative advantages of alignment and RLVR; plain float64 arithmetic on [groups,
responses]."""

from typing import Literal

import torch
from torch import Tensor

_EPSILON = 1e-6


def group_normalise(rewards: Tensor) -> Tensor:
    """(r - mean) / (std + 1e-6) within each group, std with N - 1; a group of one keeps its reward.

    rewards [groups, responses]. Equal rewards give exactly 0.
    """
    centred = group_centre(rewards)
    if rewards.shape[1] == 1:
        return centred / (1 + _EPSILON)
    return centred / (_offsets(rewards).std(dim=1, keepdim=True) + _EPSILON)


def group_centre(rewards: Tensor) -> Tensor:
    """r - mean within each group (Dr.GRPO, arXiv 2503.20783); a group of one keeps its reward.

    rewards [groups, responses]. Equal rewards give exactly 0.
    """
    if rewards.shape[1] == 1:
        return rewards
    offsets = _offsets(rewards)
    return offsets - offsets.mean(dim=1, keepdim=True)


def _offsets(rewards: Tensor) -> Tensor:
    """From each group's first: 0 where equal, which the mean of equal numbers is not."""
    return rewards - rewards[:, :1]


def alignment_advantages(
    scores: Tensor,
    valid: Tensor,
    weights: tuple[float, float],
    format_penalty: float,
    form: Literal["per_component", "mixed"],
) -> Tensor:
    """Advantage of each response from its perception and reasoning scores.

    scores [groups, responses, 2], valid [groups, responses] (has the format); returns
    [groups, responses]. A response without the format takes the place one below its group's lowest
    valid score (-1 where none is valid) and pays the format penalty on top. `per_component`
    normalises each score within its group and then mixes (reference code); `mixed` mixes first
    (paper, equations 1 and 3).
    """
    caption, reasoning = (_pin_invalid(scores[..., k], valid) for k in range(2))
    if form == "mixed":
        advantages = group_normalise(weights[0] * caption + weights[1] * reasoning)
    else:
        advantages = weights[0] * group_normalise(caption) + weights[1] * group_normalise(reasoning)
    return advantages - format_penalty * (~valid).to(advantages)


def _pin_invalid(scores: Tensor, valid: Tensor) -> Tensor:
    lowest = scores.masked_fill(~valid, torch.inf).min(dim=1, keepdim=True).values
    floor = torch.where(lowest.isinf(), torch.zeros_like(lowest), lowest) - 1
    return torch.where(valid, scores, floor)
