"""Accuracy-aware advantages of alignment: the modes of the reference code that it can compute."""

from typing import Literal

from prism_api.base import Contract
from prism_api.resources import NonNegative


class Gating(Contract):
    """Alignment that knows whether answers are right (reference code; off in all published
    results)."""

    mode: Literal["acc_gating", "rlvr", "rlvr_v2", "sign_align"]
    """`acc_gating`: wrong answers pay. `rlvr`: the group z-score of what answer and format earn,
    plus the alignment advantage where the answer is not wrong. `rlvr_v2`: the same, and within the
    z-score wrong answers and a missing format pay. `sign_align`: as `rlvr_v2`, with the alignment
    advantage of wrong answers reversed instead of left out."""
    align_coef: NonNegative = 1.0
    """Weight of the alignment advantage."""
    wrong_penalty: NonNegative = 1.0
    """What a wrong answer in the format pays; not in `rlvr`."""
    accuracy_weight: NonNegative = 1.0
    """What a right answer earns; not in `acc_gating`."""
    format_weight: NonNegative = 1.0
    """What the format earns; not in `acc_gating`."""
