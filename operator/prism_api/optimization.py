"""Fields that every trained network has: optimizer, schedule, clipping."""

from typing import Literal

from pydantic import model_validator

from prism_api.base import Contract, CrossFieldError
from prism_api.resources import Count, Fraction, LearningRate, NonNegative


class Optimization(Contract):
    """AdamW (betas 0.9, 0.999) with a warm-up and a constant or cosine schedule."""

    learning_rate: LearningRate = 1e-6
    """Peak learning rate."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay, applied to matrices only."""
    grad_clip: NonNegative = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After warm-up: constant, or cosine to zero at the last step."""
    warmup_steps: Count | None = None
    """Steps of linear warm-up from zero."""
    warmup_ratio: Fraction | None = None
    """Warm-up as a share of all steps; instead of warmupSteps."""

    @model_validator(mode="after")
    def _one_warmup(self) -> "Optimization":
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            if "warmup_ratio" in self.model_fields_set:
                raise CrossFieldError(
                    "warmupRatio", "is given together with warmupSteps", "give one of the two"
                )
            # A default gives way to what the user wrote; frozen models have no plain assignment.
            object.__setattr__(self, "warmup_ratio", None)
        return self

    def warmup_steps_of(self, total_steps: int) -> int:
        """Length of the warm-up in steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(total_steps * (self.warmup_ratio or 0.0))
