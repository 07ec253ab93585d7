"""Policy-gradient losses: GRPO, DAPO and GSPO as rows of `prism_api.algorithms`.

Shapes: T targets (tokens of all responses of a pack, one after the other), R responses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prism_api.algorithms import ALGORITHM_ROWS, PolicyObjective
from prism_api.stages import RlvrStage

_MAX_LOG_RATIO = 20.0
_MAX_SEQUENCE_LOG_RATIO = 10.0


def objective_of(stage: RlvrStage) -> PolicyObjective:
    """The algorithm's row with the stage's own clips, which the planner has resolved."""
    row = ALGORITHM_ROWS[stage.algorithm]
    assert stage.clip_low is not None, "resolved by the planner"
    assert stage.clip_high is not None, "resolved by the planner"
    return PolicyObjective(
        row.ratio, row.average, stage.clip_low, stage.clip_high, stage.dual_clip or 0.0
    )


ON_POLICY = PolicyObjective("token", "token", 0.2, 0.2)
"""For one update per batch: every ratio is 1 and no clip acts (alignment)."""


@dataclass(frozen=True)
class PolicyLossInputs:
    """What the caller has prepared: no token is masked any more, counts are over the whole
    batch."""

    logprobs: Tensor
    """[T], with gradient."""
    old_logprobs: Tensor
    """[T], of the policy that the ratio compares with; detached."""
    advantages: Tensor
    """[R]"""
    response_index: Tensor
    """[T] response of each token."""
    response_lengths: Tensor
    """[R] tokens of each response."""
    total_tokens: float
    """Tokens of the batch, over all processes and packs."""
    total_responses: float
    """Responses of the batch, over all processes and packs."""


@dataclass(frozen=True)
class PolicyLossOutputs:
    """The loss and what is worth watching; sums, to be divided by the batch's tokens."""

    loss: Tensor
    clipped_tokens: Tensor


def policy_loss(inputs: PolicyLossInputs, objective: PolicyObjective) -> PolicyLossOutputs:
    """Clipped surrogate, summed over tokens with weights that add up to one over the batch.

    max(-A r, -A clip(r, 1 - low, 1 + high)), for A < 0 at most -A c (dual clip). The log-ratio is
    clamped to +-20 (sequence ratio: at most 10), as in the reference code.
    """
    advantages = inputs.advantages.index_select(0, inputs.response_index)
    ratio = _ratio(inputs, objective)
    clipped_ratio = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
    plain, clipped = -advantages * ratio, -advantages * clipped_ratio
    losses = torch.maximum(plain, clipped)
    if objective.dual_clip:
        ceiling = -advantages * objective.dual_clip
        losses = torch.where(advantages < 0, torch.minimum(losses, ceiling), losses)
    loss = (losses * _token_weights(inputs, objective)).sum()
    return PolicyLossOutputs(loss, (clipped > plain).sum())


def _ratio(inputs: PolicyLossInputs, objective: PolicyObjective) -> Tensor:
    log_ratio = inputs.logprobs - inputs.old_logprobs
    if objective.ratio == "token":
        return log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    sums = torch.zeros_like(inputs.response_lengths, dtype=log_ratio.dtype)
    sums = sums.index_add(0, inputs.response_index, log_ratio.detach())
    means = (sums / inputs.response_lengths.clamp(min=1)).index_select(0, inputs.response_index)
    # The value is the sequence's ratio, the gradient that of each token (GSPO-token, equation 13).
    per_token = means + inputs.logprobs - inputs.logprobs.detach()
    return per_token.clamp(max=_MAX_SEQUENCE_LOG_RATIO).exp()


def _token_weights(inputs: PolicyLossInputs, objective: PolicyObjective) -> Tensor | float:
    if objective.average == "token":
        return 1.0 / max(1.0, inputs.total_tokens)
    lengths = inputs.response_lengths.clamp(min=1).index_select(0, inputs.response_index)
    return 1.0 / (lengths.to(inputs.logprobs.dtype) * max(1.0, inputs.total_responses))


def kl_penalty(logprobs: Tensor, reference: Tensor) -> Tensor:
    """k3 estimate of KL(policy, reference) per token, [T]; never negative (Schulman 2020)."""
    log_ratio = (reference - logprobs).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return log_ratio.exp() - log_ratio - 1
