"""Advantages of alignment that depend on whether the answer is right; plain float64 arithmetic on
[groups, responses].

Whoever starts the stage hands over how answers are graded: alignment itself never sees the
verifier.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prism_api.gating import Gating
from prism_trainer.advantages import group_normalise

Grade = Callable[[Sequence[tuple[str, Sequence[str]]]], list[bool | None]]
"""Whether each (response, truths) is right; None where that cannot be told."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Which responses are right and which, in the format, are wrong; [groups, responses] each.

    Neither in a group in which some answer cannot be verified: there accuracy says nothing.
    """

    right: Tensor
    wrong: Tensor


def answers_of(verdicts: Sequence[Sequence[bool | None]], valid: Tensor) -> Answers:
    """Verdicts of all groups' responses as masks; `valid` says which have the format."""
    known = torch.tensor([[None not in group] for group in verdicts], dtype=torch.bool)
    right = torch.tensor([[v is True for v in group] for group in verdicts], dtype=torch.bool)
    known, right = known.reshape(len(valid), 1), right.reshape(valid.shape)
    return Answers(known & valid & right, known & valid & ~right)


def gated_advantages(
    alignment: Tensor, valid: Tensor, answers: Answers, gating: Gating, format_penalty: float
) -> Tensor:
    """Total advantage of each response (prism-method.md 5.3; reference code, advantage modes).

    alignment [groups, responses]: the advantage by scores, without any format penalty; valid: who
    has the format. All but `acc_gating` leave responses without the format out of alignment.
    """
    right, wrong, formed = (mask.double() for mask in (answers.right, answers.wrong, valid))
    aligned = gating.align_coef * alignment
    penalty = gating.wrong_penalty * wrong + format_penalty * (1 - formed)
    if gating.mode == "acc_gating":
        return aligned - penalty
    reward = gating.accuracy_weight * right + gating.format_weight * formed
    if gating.mode == "rlvr":
        return group_normalise(reward) + aligned * formed * (1 - wrong)
    kept = 1 - 2 * wrong if gating.mode == "sign_align" else 1 - wrong
    return group_normalise(reward - penalty) + aligned * formed * kept
