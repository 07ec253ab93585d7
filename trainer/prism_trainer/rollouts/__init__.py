"""Who samples responses: the protocol that the in-process generator and rollout servers share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prism_trainer.data.rows import Row
from prism_trainer.engine.packing import Prompt, Tokens


@dataclass(frozen=True)
class SamplingParams:
    """How responses are drawn; temperature 0 takes the likeliest token."""

    max_tokens: int
    temperature: float = 1.0


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt and one seed per wanted response."""

    prompt: Prompt
    seeds: tuple[int, ...]
    row: Row | None = None
    """What the prompt was made of; a rollout server makes it again and must come to the same."""


@dataclass(frozen=True, eq=False)
class Completion:
    """A response as the policy produced it."""

    tokens: Tokens
    """With the end-of-turn token, if it came."""
    logprobs: NDArray[np.float32]
    """Of each token under the distribution that it was drawn from."""
    finished: bool
    """Whether the end-of-turn token came before the length limit."""
    weight_version: int
    """Optimizer steps that the sampling weights had taken."""
    seed: int = 0
    """What it was drawn from; nothing was drawn at temperature 0."""
    weights: str = ""
    """Digest of the sampling weights where they were published; none for the trainer's own."""


class RolloutClient(Protocol):
    """Samples responses from the weights that were published last."""

    def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> list[list[Completion]]:
        """One list of completions per request, one completion per seed.

        The same prompt, seed, weights and batch give the same tokens. All processes call it
        together, also one that has no request.
        """

    def update_weights(self, version: int) -> None:
        """Sample from the policy's current weights from now on."""
