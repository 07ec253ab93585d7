"""What is worth watching of a scored batch."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from prism_trainer.discriminator.comparison import Comparison
from prism_trainer.discriminator.discriminator import ScoredBatch
from prism_trainer.distributed import Ranks


def comparison_metrics(
    ranks: Ranks, comparisons: Sequence[Comparison], scored: ScoredBatch
) -> dict[str, float]:
    """Means over all processes' pairs.

    A response with the teacher's text has the teacher's score, which is half a right decision.
    """
    gaps = _joined(s.teacher - s.students for s in scored.scores)
    students = _joined(s.students for s in scored.scores)
    right = (gaps > 0).double() + 0.5 * (gaps == 0).double()
    alike = sum(int((c.text_numbers[1:] == c.text_numbers[0]).sum()) for c in comparisons)
    pairs, gap_caption, gap_reasoning, right_caption, right_reasoning, score, same = (
        ranks.sum_floats(
            float(len(gaps)),
            *gaps.sum(0).tolist(),
            *right.sum(0).tolist(),
            float(students.sum()),
            float(alike),
        )
    )
    divisor = max(1.0, pairs)
    return {
        "discriminator_gap_caption": gap_caption / divisor,
        "discriminator_gap_reasoning": gap_reasoning / divisor,
        "discriminator_accuracy_caption": right_caption / divisor,
        "discriminator_accuracy_reasoning": right_reasoning / divisor,
        "student_score": score / divisor,
        "identical_segments": same / (2 * divisor),
        "expert_load_max": float(_relative_load(scored.expert_shares).max()),
    }


def _joined(parts: Iterable[Tensor]) -> Tensor:
    """[pairs, 2], also without any."""
    return torch.cat([torch.empty(0, 2, dtype=torch.float64), *(p.double().cpu() for p in parts)])


def _relative_load(shares: Tensor) -> Tensor:
    """Expert loads relative to an even spread, [layers, experts]."""
    return shares * shares.shape[1] / shares.sum(1, keepdim=True)
