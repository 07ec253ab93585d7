"""Routers of the discriminator: which experts a token may choose, and what they chose."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from prism_api.stages import Discriminator

CAPTION, REASONING = 0, 1
"""Classes of continuations; prompts have class -1."""


@dataclass
class RoutingContext:
    """Shared by all routers of a discriminator; set before, read after each forward pass."""

    allowed: Tensor | None = None
    """[tokens, experts], true where a token may choose an expert; none: everywhere."""
    probabilities: dict[int, Tensor] = field(default_factory=dict)
    """By layer [counted tokens, experts], with gradient."""
    choices: dict[int, Tensor] = field(default_factory=dict)
    """By layer [counted tokens, choices] expert indices."""
    _counted: int | None = None

    def start(self, allowed: Tensor | None, counted: int | None = None) -> None:
        """Begin a forward pass, of which only the first `counted` tokens are kept account of."""
        self.allowed, self._counted = allowed, counted
        self.probabilities, self.choices = {}, {}

    def record(self, layer: int, probabilities: Tensor, choices: Tensor) -> None:
        """Keep what a layer did; its recomputation in the backward pass (checkpointing) is not
        another one."""
        if layer not in self.probabilities:
            self.probabilities[layer] = probabilities[: self._counted]
            self.choices[layer] = choices[: self._counted]

    def choice_counts(self, weights: Tensor) -> Tensor:
        """How often each expert was chosen, [layers, experts]; weights [tokens] are how many tokens
        each one stands for."""
        experts = self.probabilities[0].shape[1]
        every = self.choices.values()
        chosen = [one_hot(choices, experts).sum(1).double() for choices in every]
        return torch.stack([weights.double() @ tokens for tokens in chosen])


class Router(nn.Module):
    """Top-k router with the parameter of transformers' own, restricted to the allowed experts."""

    def __init__(
        self, layer: int, weight: nn.Parameter, top_k: int, context: RoutingContext
    ) -> None:
        """`weight` [experts, width]."""
        super().__init__()
        self.weight, self.top_k = weight, top_k
        self._layer, self._context = layer, context

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [tokens, experts], weights and indices [tokens, k]; the weights sum to one."""
        logits = linear(hidden.reshape(-1, self.weight.shape[1]), self.weight)
        if self._context.allowed is not None:
            logits = logits.masked_fill(~self._context.allowed, -torch.inf)
        at_least_single = torch.promote_types(logits.dtype, torch.float32)
        probabilities = torch.softmax(logits, dim=-1, dtype=at_least_single)
        values, indices = torch.topk(probabilities, self.top_k, dim=-1)
        self._context.record(self._layer, probabilities, indices)
        return logits, (values / values.sum(-1, keepdim=True)).to(logits.dtype), indices


def allowed_experts(token_classes: Tensor, settings: Discriminator) -> Tensor | None:
    """Segment routing: captions choose in the first half, reasoning in the second, prompts
    anywhere.

    token_classes [tokens]; returns [tokens, experts], or none for learned routing.
    """
    if settings.routing == "learned":
        return None
    half = settings.num_experts // 2
    first = torch.arange(settings.num_experts, device=token_classes.device) < half
    classes = token_classes[:, None]
    return (classes < 0) | torch.where(classes == CAPTION, first, ~first)
