"""From the discriminator's scores of a batch, and with gating its answers, to advantages."""

from collections.abc import Sequence

import torch
from torch import Tensor

from prism_api.stages import AlignStage
from prism_trainer.advantages import alignment_advantages
from prism_trainer.discriminator.discriminator import ScoredBatch
from prism_trainer.distributed import Ranks
from prism_trainer.gating import Answers, Grade, answers_of, gated_advantages
from prism_trainer.rewards.response import Response
from prism_trainer.stages.program import Metrics
from prism_trainer.stages.sampling import SampledGroup

Parsed = list[Response | None]


def batch_advantages(
    scored: ScoredBatch,
    parsed: Sequence[Parsed],
    settings: AlignStage,
    answers: Answers | None,
) -> Tensor:
    """Advantages [groups, responses]; `answers` are those of `graded`, with gating only."""
    scores, valid = _score_table(scored, parsed, settings.rollouts_per_prompt)
    weights, penalty = (settings.caption_weight, settings.reasoning_weight), settings.format_penalty
    if settings.gating is None:
        return alignment_advantages(scores, valid, weights, penalty, settings.advantage)
    assert answers is not None, "a stage with gating grades its answers"
    alignment = alignment_advantages(scores, valid, weights, 0.0, settings.advantage)
    return gated_advantages(alignment, valid, answers, settings.gating, penalty)


def graded(
    groups: Sequence[SampledGroup], parsed: Sequence[Parsed], responses: int, grade: Grade
) -> Answers:
    """Every answer of a batch against its row's truths, all of them side by side."""
    samples = [(text, group.draw.row.truths) for group in groups for text in group.texts]
    verdicts = grade(samples)
    parts = [verdicts[i : i + responses] for i in range(0, len(verdicts), responses)]
    return answers_of(parts, _has_format(parsed, responses))


def accuracy_metrics(ranks: Ranks, answers: Answers) -> Metrics:
    """Share of right answers among the responses of all processes, of which one must have some."""
    right = answers.right
    rights, responses = ranks.sum_floats(float(right.sum()), float(right.numel()))
    return {"accuracy": rights / responses}


def _score_table(
    scored: ScoredBatch, parsed: Sequence[Parsed], responses: int
) -> tuple[Tensor, Tensor]:
    """Scores [groups, responses, 2] with 0 for responses without the format, and who has it."""
    valid = _has_format(parsed, responses)
    scores = torch.zeros(*valid.shape, 2, dtype=torch.float64)
    for i, pairs in enumerate(scored.scores):
        scores[i, valid[i]] = pairs.students.double().cpu()
    return scores, valid


def _has_format(parsed: Sequence[Parsed], responses: int) -> Tensor:
    has_format = [[r is not None for r in group] for group in parsed]
    return torch.tensor(has_format, dtype=torch.bool).reshape(len(parsed), responses)
