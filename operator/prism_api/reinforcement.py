"""Parts of the stages that learn from the policy's own responses."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prism_api.base import Contract, CrossFieldError
from prism_api.resources import NonNegative, Positive

Algorithm = Literal["grpo", "dapo", "gspo", "dr-grpo", "cispo"]
KlEstimator = Literal["k1", "k2", "k3"]


class RolloutCorrection(Contract):
    """Weights of the token losses for what rollout servers sampled: p(trainer) / p(server).

    A server computes log-probabilities by other kernels in other precision, so that even with the
    same weights its samples are not quite the policy's own.
    """

    level: Literal["token", "sequence"] = "token"
    """`token`: each token's own ratio (truncated importance sampling); `sequence`: the product
    over the response, exact in expectation and of a spread that grows with its length."""
    mode: Literal["clamp", "mask"] = "clamp"
    """`clamp`: weights are moved to the nearest bound; `mask`: beyond a bound they are 0."""
    min_weight: NonNegative = 0.0
    """Lower bound."""
    max_weight: Annotated[float, Field(gt=0, le=1e6)] = 2.0
    """Upper bound."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_weight >= self.max_weight:
            raise CrossFieldError(
                "minWeight",
                f"{self.min_weight} is not below maxWeight {self.max_weight}",
                "give less",
            )
        return self


class Overlong(Contract):
    """DAPO's soft punishment of responses near the length limit."""

    buffer_tokens: Positive = 4096
    """Width of the zone before maxResponseTokens in which the penalty grows."""
    penalty_factor: NonNegative = 1.0
    """Penalty at maxResponseTokens."""
