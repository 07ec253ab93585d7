"""What distinguishes the RLVR algorithms: one row of published settings each.

Sources: the reference code's launch scripts for GRPO, DAPO (arXiv 2503.14476) and GSPO
(2507.18071); Dr.GRPO: 2503.20783; CISPO: 2506.13585, equations 4 and 5, which bounds the ratio from
above only and does not say by how much: the bound 5 is that of 2510.13786, which adopted it.
"""

from dataclasses import dataclass
from typing import Any, Literal

from prism_api.reinforcement import Algorithm, Overlong, RolloutCorrection
from prism_api.resources import Rollout, on_servers
from prism_api.stages import AlignStage, RlvrStage


@dataclass(frozen=True)
class PolicyObjective:
    """One clipped surrogate and how its token losses are averaged."""

    ratio: Literal["token", "sequence"]
    """Importance ratio of each token, or the geometric mean over the response (GSPO)."""
    average: Literal["token", "sequence", "length_limit"]
    """`token`: over all tokens of the batch; `sequence`: over responses of their token means;
    `length_limit`: over responses of their token sums, divided by maxResponseTokens (Dr.GRPO)."""
    clip_low: float
    clip_high: float
    dual_clip: float = 0.0
    """With a negative advantage the loss is at most this many times -advantage; 0: no such
    limit."""
    surrogate: Literal["ppo", "cispo"] = "ppo"
    """`ppo`: the worse of ratio and clipped ratio, times the advantage: no gradient beyond the
    clip; `cispo`: the clipped ratio is a constant weight of the log-probability: every token has a
    gradient."""


@dataclass(frozen=True)
class AlgorithmRow(PolicyObjective):
    """An objective, its advantages, and the other fields' defaults where a user left them out."""

    advantage: Literal["z_score", "centred"] = "z_score"
    """Rewards within their group: minus the mean, and divided by the standard deviation or not."""
    dynamic_sampling: bool = False
    overlong: Overlong | None = None
    weight_decay: float = 0.01
    warmup_steps: int | None = None
    warmup_ratio: float | None = None
    max_tokens_per_pack: int = 10240


_OVERLONG = Overlong()

ALGORITHM_ROWS: dict[Algorithm, AlgorithmRow] = {
    "grpo": AlgorithmRow("token", "token", 0.2, 0.2, 3.0),
    "dapo": AlgorithmRow(
        "token",
        "token",
        0.2,
        0.28,
        10.0,
        dynamic_sampling=True,
        overlong=_OVERLONG,
        weight_decay=0.1,
        warmup_steps=10,
    ),
    "gspo": AlgorithmRow(
        "sequence",
        "sequence",
        3e-4,
        4e-4,
        0.0,
        weight_decay=0.1,
        warmup_ratio=0.05,
        max_tokens_per_pack=20480,
    ),
    "dr-grpo": AlgorithmRow("token", "length_limit", 0.2, 0.2, advantage="centred"),
    "cispo": AlgorithmRow("token", "token", 1.0, 4.0, surrogate="cispo"),
}

_FIELDS = (
    "clip_low",
    "clip_high",
    "dual_clip",
    "dynamic_sampling",
    "overlong",
    "weight_decay",
    "max_tokens_per_pack",
)

RESOLVED_FIELDS = frozenset({*_FIELDS, "warmup_steps", "warmup_ratio", "generation_batch_size"})
"""Fields of RlvrStage whose default the algorithm decides."""


def resolve_rlvr(stage: RlvrStage) -> RlvrStage:
    """Fill every field that the user left out with the algorithm's published value."""
    row = ALGORITHM_ROWS[stage.algorithm]
    absent: dict[str, Any] = {
        name: getattr(row, name) for name in _FIELDS if _is_absent(stage, name)
    }
    if stage.warmup_steps is None and stage.warmup_ratio is None:
        absent |= {"warmup_steps": row.warmup_steps, "warmup_ratio": row.warmup_ratio}
    if absent.get("overlong"):
        buffer_tokens = min(_OVERLONG.buffer_tokens, max(1, stage.max_response_tokens // 2))
        absent["overlong"] = Overlong(buffer_tokens=buffer_tokens)
    resolved = stage.model_copy(update=absent)
    if resolved.dynamic_sampling and resolved.generation_batch_size is None:
        size = 3 * stage.batch_size
        resolved = resolved.model_copy(update={"generation_batch_size": size})
    return resolved


def resolve_correction(
    stage: AlignStage | RlvrStage, rollout: Rollout | None
) -> AlignStage | RlvrStage:
    """Correct what servers sample, where the user left it open; null turns the correction off."""
    if "rollout_correction" in stage.model_fields_set:
        return stage
    chosen = RolloutCorrection() if on_servers(rollout) else None
    return stage.model_copy(update={"rollout_correction": chosen})


def _is_absent(stage: RlvrStage, name: str) -> bool:
    """A null says the same as leaving the field out, but for the penalty that it turns off."""
    is_null = getattr(stage, name) is None and name != "overlong"
    return name not in stage.model_fields_set or is_null
