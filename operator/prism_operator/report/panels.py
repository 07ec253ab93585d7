"""The panels of a report: which metrics share an axis. A metric that deserves one is a row here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Panel:
    """Which metrics share an axis and what the axis is."""

    title: str
    series: Mapping[str, str]
    """Metric -> its name in the legend."""
    unit: Literal["", "rate"] = ""
    reference: tuple[float, str] | None = None
    """A value to compare with, and what it means."""
    main: bool = True
    """Whether it is shown at once or only under "more curves"."""


PANELS = (
    Panel("Loss", {"loss": "loss"}),
    Panel("Reward", {"reward": "reward"}),
    Panel(
        "Sampled responses",
        {"accuracy": "right answer", "format_rate": "three blocks"},
        unit="rate",
    ),
    Panel("Discriminator loss", {"discriminator_loss": "loss"}),
    Panel(
        "Discriminator gap (teacher minus policy)",
        {"discriminator_gap_caption": "caption", "discriminator_gap_reasoning": "reasoning"},
        reference=(0.0, "no difference"),
    ),
    Panel(
        "Discriminator accuracy",
        {
            "discriminator_accuracy_caption": "caption",
            "discriminator_accuracy_reasoning": "reasoning",
        },
        unit="rate",
        reference=(0.5, "chance"),
    ),
    Panel("Entropy", {"entropy": "entropy"}),
    Panel("Response length (tokens)", {"response_tokens": "tokens"}),
    Panel("Learning rate", {"learning_rate": "learning rate"}),
    Panel("Gradient norm", {"grad_norm": "norm"}, main=False),
    Panel("Clip fraction", {"clip_fraction": "fraction"}, unit="rate", main=False),
    Panel("Informative groups", {"informative_groups": "groups"}, main=False),
    Panel("Identical segments", {"identical_segments": "segments"}, unit="rate", main=False),
    Panel("Largest expert load", {"expert_load_max": "load"}, main=False),
    Panel("Tokens per second", {"tokens_per_second": "tokens/s"}, main=False),
)
