"""How far the log-probabilities of rollout servers are from the trainer's."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from prism_trainer.losses.correction import rollout_divergence
from prism_trainer.stages.program import Metrics


@dataclass
class RolloutGap:
    """Sums and extremes over the response tokens that were trained on."""

    tokens: float = 0.0
    distance: float = 0.0
    largest: float = 0.0
    divergence: float = 0.0
    cut_tokens: float = 0.0

    def add(self, gap: Tensor, is_cut: Tensor) -> None:
        """Count a pack's tokens; gap [tokens] is trainer minus server, in log-probability."""
        distances = gap.abs()
        self.tokens += len(gap)
        self.distance += float(distances.sum())
        self.largest = max([self.largest, *distances.tolist()])
        self.divergence += float(rollout_divergence(gap).sum())
        self.cut_tokens += float(is_cut.sum())


def joined(gaps: Sequence[RolloutGap]) -> RolloutGap:
    """That of all tokens together."""
    return RolloutGap(
        tokens=sum(gap.tokens for gap in gaps),
        distance=sum(gap.distance for gap in gaps),
        largest=max(gap.largest for gap in gaps),
        divergence=sum(gap.divergence for gap in gaps),
        cut_tokens=sum(gap.cut_tokens for gap in gaps),
    )


def gap_metrics(gap: RolloutGap) -> Metrics:
    """Mean and largest distance, estimated KL(server, trainer), share of weights that a bound
    changed; nothing where nothing was compared."""
    if not gap.tokens:
        return {}
    return {
        "rollout_gap": gap.distance / gap.tokens,
        "rollout_gap_max": gap.largest,
        "rollout_kl": gap.divergence / gap.tokens,
        "rollout_cut_fraction": gap.cut_tokens / gap.tokens,
    }
