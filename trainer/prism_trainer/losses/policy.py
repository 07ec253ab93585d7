"""Policy-gradient losses: the algorithms are rows of `prism_api.algorithms`.

Shapes: T targets (tokens of all responses of a pack, one after the other), R responses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from prism_api.algorithms import ALGORITHM_ROWS, PolicyObjective
from prism_api.reinforcement import KlEstimator
from prism_api.stages import RlvrStage

_MAX_LOG_RATIO = 20.0
_MAX_SEQUENCE_LOG_RATIO = 10.0
_MAX_KL = 10.0


def objective_of(stage: RlvrStage) -> PolicyObjective:
    """The algorithm's row with the stage's own clips, which the planner has resolved."""
    row = ALGORITHM_ROWS[stage.algorithm]
    assert stage.clip_low is not None, "resolved by the planner"
    assert stage.clip_high is not None, "resolved by the planner"
    clips = (stage.clip_low, stage.clip_high, stage.dual_clip or 0.0)
    return PolicyObjective(row.ratio, row.average, *clips, row.surrogate)


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
    max_response_tokens: int
    """The length limit, by which `average: length_limit` divides."""
    correction: Tensor | None = None
    """[T] factors of the token losses for what rollout servers sampled; detached. None: all 1."""


@dataclass(frozen=True)
class PolicyLossOutputs:
    """The loss and what is worth watching; sums, to be divided by the batch's tokens."""

    loss: Tensor
    clipped_tokens: Tensor


def policy_loss(inputs: PolicyLossInputs, objective: PolicyObjective) -> PolicyLossOutputs:
    """Clipped surrogate, summed over tokens with weights that add up to one over the batch (to the
    mean length over the limit with `length_limit`).

    The log-ratio is clamped to +-20 (sequence ratio: at most 10), as in the reference code.
    """
    advantages = inputs.advantages.index_select(0, inputs.response_index)
    ratio = _ratio(inputs, objective)
    surrogate = _ppo if objective.surrogate == "ppo" else _cispo
    losses, is_clipped = surrogate(inputs.logprobs, advantages, ratio, objective)
    if inputs.correction is not None:
        losses = losses * inputs.correction
    loss = (losses * token_weights(inputs, objective)).sum()
    return PolicyLossOutputs(loss, is_clipped.sum())


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


def _clip(ratio: Tensor, objective: PolicyObjective) -> Tensor:
    return ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)


def _ppo(
    _: Tensor, advantages: Tensor, ratio: Tensor, objective: PolicyObjective
) -> tuple[Tensor, Tensor]:
    """max(-A r, -A clip(r, 1 - low, 1 + high)), for A < 0 at most -A c (dual clip)."""
    plain, clipped = -advantages * ratio, -advantages * _clip(ratio, objective)
    losses = torch.maximum(plain, clipped)
    if objective.dual_clip:
        ceiling = -advantages * objective.dual_clip
        losses = torch.where(advantages < 0, torch.minimum(losses, ceiling), losses)
    return losses, clipped > plain


def _cispo(
    logprobs: Tensor, advantages: Tensor, ratio: Tensor, objective: PolicyObjective
) -> tuple[Tensor, Tensor]:
    """-A sg(clip(r, 1 - low, 1 + high)) log p (MiniMax-M1, equations 4 and 5)."""
    clipped = _clip(ratio, objective)
    return -advantages * clipped.detach() * logprobs, (clipped != ratio) & (advantages != 0)


def token_weights(inputs: PolicyLossInputs, objective: PolicyObjective) -> Tensor | float:
    """By what each token's loss counts in the batch's: [T], or one number for all."""
    if objective.average == "token":
        return 1.0 / max(1.0, inputs.total_tokens)
    responses = max(1.0, inputs.total_responses)
    if objective.average == "length_limit":
        return 1.0 / (responses * inputs.max_response_tokens)
    lengths = inputs.response_lengths.clamp(min=1).index_select(0, inputs.response_index)
    return 1.0 / (lengths.to(inputs.logprobs.dtype) * responses)


def kl_penalty(logprobs: Tensor, reference: Tensor, estimator: KlEstimator = "k3") -> Tensor:
    """Estimate of KL(policy, reference) per token, [T] (Schulman 2020).

    As in the reference code, k3 takes the log-ratio to be within +-20 and is at most 10.
    """
    log_ratio = logprobs - reference
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    inverse = (-log_ratio).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return (inverse.exp() - inverse - 1).clamp(max=_MAX_KL)
