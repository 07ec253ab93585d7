"""Losses of the discriminator: Bradley-Terry pairs, score regulariser, fallback, load balance."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prism_api.stages import Discriminator


@dataclass(frozen=True)
class PairScores:
    """Scores of one prompt's pairs; the two columns are perception and reasoning."""

    teacher: Tensor
    """[2]"""
    students: Tensor
    """[responses in the format, 2]"""


def pair_loss(
    scores: PairScores, total_pairs: float, total_prompts: float, settings: Discriminator
) -> Tensor:
    """Loss of one prompt's pairs; sums over prompts give the batch's loss (reference
    `dp_critic.py`).

    Per component, the mean over all pairs of -log sigmoid(teacher - student); plus the mean squared
    score, a quarter per component and side. Without any pair in the batch, the small teacher-only
    fallback keeps the teacher's scores up.
    """
    teacher, students = _clip(scores.teacher, settings), _clip(scores.students, settings)
    if total_pairs == 0:
        return -settings.fallback_coef * logsigmoid(teacher).sum() / total_prompts
    gap_loss = -logsigmoid(teacher - students).sum() / total_pairs
    squares = teacher.square().sum() * len(students) + students.square().sum()
    return gap_loss + settings.score_reg_coef * squares / (4 * total_pairs)


def _clip(scores: Tensor, settings: Discriminator) -> Tensor:
    limit = settings.score_clip
    return scores.clamp(-limit, limit) if limit else scores


def load_balance_loss(probabilities: Tensor, shares: Tensor, total_tokens: float) -> Tensor:
    """Switch-style balance of one layer, experts x sum over experts of share x mean probability.

    probabilities [tokens, experts] with gradient, times the number of tokens that each row stands
    for; shares [experts] of the whole batch, detached: the mean number of the token's choices that
    fall on each expert. Equals the number of choices
    per token when balanced (arXiv 2101.03961, equation 4). Linear in the tokens given the shares,
    so that splitting the batch changes nothing.
    """
    mean_probability = probabilities.sum(0) / total_tokens
    return shares.numel() * torch.dot(shares.to(mean_probability.dtype), mean_probability)
