"""The panels of a report: which metrics share an axis. A metric that deserves one is a row here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prism_operator.report.artifacts import PHASES


@dataclass(frozen=True)
class Panel:
    """Which metrics share an axis and what the axis is."""

    title: str
    series: Mapping[str, str]
    """Metric -> its name in the legend."""
    phases: tuple[str, ...] = PHASES
    """Whose measurements it shows."""
    unit: Literal["", "rate"] = ""
    exact: bool = False
    """Whether the values were set, not measured: drawn from 0 and not smoothed."""
    reference: float | None = None
    """A value to compare with, such as chance: a dotted line."""
    main: bool = True
    """Whether it is shown at once or only under "more curves"."""


_TRAIN = ("train",)
_WARMUP = ("warmup",)

PANELS = (
    Panel("Loss", {"loss": "loss"}, _TRAIN),
    Panel("Reward", {"reward": "reward"}),
    Panel(
        "Sampled responses",
        {"accuracy": "right answer", "format_rate": "three blocks"},
        unit="rate",
    ),
    Panel("Discriminator loss", {"discriminator_loss": "loss"}),
    Panel(
        "Discriminator gap",
        {"discriminator_gap_caption": "caption", "discriminator_gap_reasoning": "reasoning"},
        reference=0.0,
    ),
    Panel(
        "Discriminator accuracy",
        {
            "discriminator_accuracy_caption": "caption",
            "discriminator_accuracy_reasoning": "reasoning",
        },
        unit="rate",
        reference=0.5,
    ),
    Panel("Entropy", {"entropy": "entropy"}),
    Panel("Response length (tokens)", {"response_tokens": "tokens"}),
    Panel("Learning rate", {"learning_rate": "learning rate"}, _TRAIN, exact=True),
    Panel("Gradient norm", {"grad_norm": "norm"}, _TRAIN, main=False),
    Panel("Clip fraction", {"clip_fraction": "fraction"}, unit="rate", main=False),
    Panel(
        "Servers' log-probabilities against the trainer's",
        {"rollout_gap": "mean distance", "rollout_kl": "divergence"},
        main=False,
    ),
    Panel(
        "Corrected weights of sampled tokens",
        {"rollout_cut_fraction": "beyond a bound"},
        unit="rate",
        main=False,
    ),
    Panel("Informative groups", {"informative_groups": "groups"}, main=False),
    Panel("Identical segments", {"identical_segments": "segments"}, unit="rate", main=False),
    Panel("Largest expert load", {"expert_load_max": "load"}, main=False),
    Panel("Tokens per second", {"tokens_per_second": "tokens/s"}, main=False),
    # In warm-up these three are the discriminator's: another network on another scale.
    Panel("Loss in warm-up", {"loss": "loss"}, _WARMUP, main=False),
    Panel(
        "Learning rate in warm-up",
        {"learning_rate": "learning rate"},
        _WARMUP,
        exact=True,
        main=False,
    ),
    Panel("Gradient norm in warm-up", {"grad_norm": "norm"}, _WARMUP, main=False),
)
