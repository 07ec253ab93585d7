"""The language-model head in chunks: log-probabilities and entropies without the full logits."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

_CHUNK_ELEMENTS = 1 << 25
"""Logits held at once: 128 MiB in float32."""


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 (or more, if its weight has more) whatever surrounds
    it, for outputs whose small differences count; engines leave its weight in float32, but for
    DeepSpeed, which rounds all weights of a pass in half precision."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        """See nn.Linear."""
        with torch.autocast(input.device.type, enabled=False):
            dtype = torch.promote_types(self.weight.dtype, torch.float32)
            bias = None if self.bias is None else self.bias.to(dtype)
            return linear(input.to(dtype), self.weight.to(dtype), bias)


class _ChunkedLogprobs(torch.autograd.Function):
    """Recomputes each chunk's logits in the backward pass; all sums over chunks are float32."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, inverse_temperature: float
    ) -> tuple[Tensor, Tensor]:
        rows = max(1, _CHUNK_ELEMENTS // weight.shape[0])
        logprobs, entropies, normalisers = [], [], []
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = (h @ weight.to(h.dtype).T).float() * inverse_temperature
            lse = torch.logsumexp(logits, dim=-1)
            log_p = logits - lse[:, None]
            logprobs.append(log_p.gather(1, t[:, None]).squeeze(1))
            # Not lse - sum(p * logits): the two cancel where the distribution is peaked.
            entropies.append(-(log_p.exp() * log_p).sum(-1))
            normalisers.append(lse)
        entropy = torch.cat(entropies)
        ctx.save_for_backward(hidden, weight, targets, torch.cat(normalisers), entropy)
        ctx.inverse_temperature, ctx.rows = inverse_temperature, rows
        return torch.cat(logprobs), entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        grad_logprob, grad_entropy = grads
        hidden, weight, targets, lse, entropy = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        is_trained = ctx.needs_input_grad[1]
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if is_trained else None
        cast = weight.to(hidden.dtype)
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, start + ctx.rows)
            logits = (hidden[part] @ cast.T).float() * ctx.inverse_temperature
            log_p = logits - lse[part, None]
            p = log_p.exp()
            g, e = grad_logprob[part, None], grad_entropy[part, None]
            d_logits = -p * (g + e * (log_p + entropy[part, None]))
            d_logits.scatter_add_(1, targets[part, None], g)
            d_logits *= ctx.inverse_temperature
            grad_hidden[part] = d_logits.to(cast.dtype) @ cast
            if grad_weight is not None:
                grad_weight += (d_logits.to(cast.dtype).T @ hidden[part]).float()
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, both float32 and
    differentiable.

    hidden [targets, width], weight [vocabulary, width], targets [targets]; returns two [targets].
    """
    if len(targets) == 0:
        # Connected to both, so that each process has a gradient of every weight.
        empty = (hidden.sum(-1) + weight[0, 0]).float() * 0
        return empty, empty
    if torch.is_autocast_enabled(hidden.device.type):
        # The backward pass recomputes the logits outside autocast, in this same precision.
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    apply: Any = _ChunkedLogprobs.apply
    logprobs, entropy = apply(hidden, weight, targets, 1.0 / temperature)
    return logprobs, entropy
