"""One batch of responses as our loss reads it (flat) and as TRL and Liger do (padded), in
float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from prism_api.algorithms import PolicyObjective
from prism_trainer.losses.policy import PolicyLossInputs, policy_loss

LIMIT = 9
"""maxResponseTokens, TRL's max_completion_length."""


@dataclass(frozen=True)
class PaddedBatch:
    """R responses of at most W tokens, with junk where there are none."""

    logprobs: Tensor
    """[R, W], with gradient."""
    old: Tensor
    """[R, W]"""
    rollout: Tensor
    """[R, W]: what the server said."""
    reference: Tensor
    """[R, W]: of the initial policy."""
    mask: Tensor
    """[R, W] 1 or 0; a response is masked from its end on."""
    advantages: Tensor
    """[R]"""

    @property
    def lengths(self) -> Tensor:
        """[R]"""
        return self.mask.sum(-1)

    def flat(self, padded: Tensor) -> Tensor:
        """The tokens that count, [T]."""
        return padded[self.mask.bool()]

    @property
    def response_index(self) -> Tensor:
        """[T]"""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)

    def inputs(self, **changes: Any) -> PolicyLossInputs:
        """As our loss takes it; counts are of this batch alone."""
        given: dict[str, Any] = {
            "logprobs": self.flat(self.logprobs),
            "old_logprobs": self.flat(self.old),
            "advantages": self.advantages,
            "response_index": self.response_index,
            "response_lengths": self.lengths,
            "total_tokens": float(self.mask.sum()),
            "total_responses": float(len(self.lengths)),
            "max_response_tokens": LIMIT,
        }
        return PolicyLossInputs(**{**given, **changes})

    def rows(self, start: int, stop: int) -> "PaddedBatch":
        """Some responses: a micro-batch."""
        part = slice(start, stop)
        return PaddedBatch(
            self.logprobs.detach()[part].requires_grad_(),
            self.old[part],
            self.rollout[part],
            self.reference[part],
            self.mask[part],
            self.advantages[part],
        )


def padded_batch(
    seed: int, lengths: Sequence[int], spread: float, advantages: Sequence[float] | None = None
) -> PaddedBatch:
    """Log-ratios have the standard deviation `spread`; some responses may be empty."""
    generator = torch.Generator().manual_seed(seed)

    def normal(mean: float, deviation: float) -> Tensor:
        size = (len(lengths), max(1, *lengths))
        return mean + deviation * torch.randn(size, generator=generator, dtype=torch.float64)

    old = normal(-2, 1)
    size = old.shape[1]
    if advantages is None:
        advantages = torch.randn(len(lengths), generator=generator).tolist()
    return PaddedBatch(
        logprobs=(old + normal(0, spread)).requires_grad_(),
        old=old,
        rollout=old + normal(0, spread),
        reference=old + normal(0, spread),
        mask=(torch.arange(size)[None] < torch.tensor(lengths)[:, None]).long(),
        advantages=torch.tensor(advantages, dtype=torch.float64),
    )


def batches(min_length: int = 1) -> st.SearchStrategy[PaddedBatch]:
    """Near to and far from the policy that sampled, good and bad responses."""
    return st.builds(
        padded_batch,
        st.integers(0, 10**6),
        st.lists(st.integers(min_length, LIMIT), min_size=2, max_size=5),
        st.sampled_from([1e-4, 0.1, 1.0, 4.0]),
    )


def our_loss(
    batch: PaddedBatch, objective: PolicyObjective, **changes: Any
) -> tuple[Tensor, Tensor]:
    """Value and gradient [R, W]."""
    loss = policy_loss(batch.inputs(**changes), objective).loss
    return with_gradient(loss, batch)


def with_gradient(loss: Tensor, batch: PaddedBatch) -> tuple[Tensor, Tensor]:
    """The loss and its gradient with respect to the batch's log-probabilities."""
    (gradient,) = torch.autograd.grad(loss, batch.logprobs)
    return loss.detach(), gradient


def assert_same(
    ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-9
) -> None:
    """Values and gradients, relative to what is compared with (absolute below one)."""
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.dtype == reference.dtype == torch.float64
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)
