"""Sampled groups with their rewards (RLVR)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from prism_api.algorithms import ALGORITHM_ROWS
from prism_api.stages import RlvrStage
from prism_trainer.advantages import group_centre, group_normalise
from prism_trainer.rewards.reward import Reward, RewardWeights, overlong_penalty, score_many
from prism_trainer.rewards.verifier import Verdict
from prism_trainer.stages.sampling import SampledGroup


@dataclass(frozen=True, eq=False)
class GradedGroup:
    """A group with its rewards."""

    group: SampledGroup
    rewards: tuple[Reward, ...]
    totals: Tensor
    """[responses] rewards with length penalty."""
    is_scaled: bool = True
    """Whether advantages are divided by the group's standard deviation (not in Dr.GRPO)."""

    @property
    def is_informative(self) -> bool:
        """Whether some answers are right and some wrong: the others teach nothing (DAPO)."""
        return len({reward.accuracy for reward in self.rewards}) > 1

    @property
    def advantages(self) -> Tensor:
        """[responses] group z-score of the rewards, or their distance from the mean; 0 for a row
        that cannot be verified."""
        if any(reward.verdict is Verdict.UNVERIFIABLE for reward in self.rewards):
            return torch.zeros_like(self.totals)
        normalise = group_normalise if self.is_scaled else group_centre
        return normalise(self.totals[None])[0]


def grade(groups: Sequence[SampledGroup], settings: RlvrStage) -> list[GradedGroup]:
    """Verify every response, all of them side by side, and add up what it earns."""
    weights = RewardWeights(settings.accuracy_weight, settings.format_weight)
    samples = [(text, group.draw.row.truths) for group in groups for text in group.texts]
    rewards = iter(score_many(samples, weights))
    return [_graded(g, tuple(islice(rewards, len(g.texts))), settings) for g in groups]


def _graded(group: SampledGroup, rewards: tuple[Reward, ...], settings: RlvrStage) -> GradedGroup:
    totals = [
        reward.total + _length_penalty(len(completion.tokens), settings)
        for reward, completion in zip(rewards, group.completions, strict=True)
    ]
    is_scaled = ALGORITHM_ROWS[settings.algorithm].advantage == "z_score"
    return GradedGroup(group, rewards, torch.tensor(totals, dtype=torch.float64), is_scaled)


def _length_penalty(length: int, settings: RlvrStage) -> float:
    overlong = settings.overlong
    if overlong is None:
        return 0.0
    limit = settings.max_response_tokens
    return overlong_penalty(length, limit, overlong.buffer_tokens, overlong.penalty_factor)
