"""Batches for the policy's losses, and the published objectives."""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from prism_api.algorithms import PolicyObjective
from prism_trainer.losses.policy import PolicyLossInputs, policy_loss

GRPO = PolicyObjective("token", "token", 0.2, 0.2, 3.0)
DAPO = PolicyObjective("token", "token", 0.2, 0.28, 10.0)
GSPO = PolicyObjective("sequence", "sequence", 3e-4, 4e-4, 0.0)
DR_GRPO = PolicyObjective("token", "length_limit", 0.2, 0.2, 0.0)
CISPO = PolicyObjective("token", "token", 1.0, 4.0, 0.0, "cispo")
OBJECTIVES = {"grpo": GRPO, "dapo": DAPO, "gspo": GSPO, "dr-grpo": DR_GRPO, "cispo": CISPO}
LIMIT = 7
"""Tokens that a response may have."""


def inputs_of(
    log_ratios: Sequence[Sequence[float]],
    advantages: Sequence[float],
    total_tokens: float | None = None,
    total_responses: float | None = None,
    correction: Sequence[float] | None = None,
) -> PolicyLossInputs:
    """Responses with the given log-ratios per token, whose log-probabilities have gradients."""
    lengths = [len(response) for response in log_ratios]
    flat = torch.tensor([x for r in log_ratios for x in r], dtype=torch.float64)
    # Those of a response do not depend on the batch that it is in.
    old = torch.cat([torch.linspace(-3, -0.5, n, dtype=torch.float64) for n in lengths])
    return PolicyLossInputs(
        logprobs=(old + flat).requires_grad_(),
        old_logprobs=old,
        advantages=torch.tensor(advantages, dtype=torch.float64),
        response_index=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        response_lengths=torch.tensor(lengths),
        total_tokens=total_tokens or float(sum(lengths)),
        total_responses=total_responses or float(len(lengths)),
        max_response_tokens=LIMIT,
        correction=None if correction is None else torch.tensor(correction, dtype=torch.float64),
    )


def gradient_of(inputs: PolicyLossInputs, objective: PolicyObjective) -> Tensor:
    """With respect to every token's log-probability."""
    (gradient,) = torch.autograd.grad(policy_loss(inputs, objective).loss, inputs.logprobs)
    return gradient


def loss_of(inputs: PolicyLossInputs, objective: PolicyObjective) -> float:
    """Its value."""
    return policy_loss(inputs, objective).loss.item()


LOG_RATIO = st.one_of(st.floats(-1, 1), st.floats(-30, 30))
BATCH = st.lists(
    st.tuples(st.lists(LOG_RATIO, min_size=1, max_size=5), st.floats(-3, 3)), min_size=1, max_size=4
)
