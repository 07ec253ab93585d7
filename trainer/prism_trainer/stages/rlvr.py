"""Stage 3: reinforcement learning with verifiable rewards (GRPO, DAPO, GSPO).

Reward of a response: accuracyWeight x right answer + formatWeight x format, as the published rules
say; advantage: group z-score; loss: the algorithm's row of losses/policy.py. An unverifiable row
(bad gold answer) gives its whole group advantage 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prism_api.errors import DataError
from prism_api.stages import RlvrStage
from prism_trainer.advantages import group_normalise
from prism_trainer.data.rows import Dataset
from prism_trainer.losses.policy import objective_of
from prism_trainer.rewards.reward import Reward, RewardWeights, overlong_penalty, score
from prism_trainer.rewards.verifier import Verdict
from prism_trainer.rollouts import Completion
from prism_trainer.stages.program import Metrics, Phase, StageContext, Stateless
from prism_trainer.stages.sampling import (
    PolicyUpdate,
    PromptSource,
    SampledGroup,
    UpdateReport,
    response_metrics,
)


@dataclass(frozen=True, eq=False)
class ScoredGroup:
    """A group with its rewards."""

    group: SampledGroup
    rewards: tuple[Reward, ...]
    totals: Tensor
    """[responses] rewards with length penalty."""

    @property
    def is_informative(self) -> bool:
        """Whether some answers are right and some wrong: the others teach nothing (DAPO)."""
        return len({reward.accuracy for reward in self.rewards}) > 1


class RlvrProgram(Stateless):
    """Samples, verifies, steps; keeps the surplus of dynamic sampling for the next step."""

    def __init__(self, context: StageContext, settings: RlvrStage) -> None:
        self._context, self._settings = context, settings
        self._source = PromptSource(context, settings, Dataset([settings.data], "truth"))
        self.phases = (Phase("train", settings.steps),)
        context.policy.start_training(settings, settings.steps * settings.mini_batches)
        self._update = PolicyUpdate(context, settings, objective_of(settings))
        self._position = 0
        self._surplus: list[ScoredGroup] = []

    def iterate(self, phase: str, step: int) -> Metrics:
        """Sample a batch, reward it, and take one optimizer step per mini-batch."""
        batch, seen = self._collect(step)
        advantages = [_advantages(scored) for scored in batch]
        reports = self._step_policy(batch, advantages, step)
        return self._metrics(batch, seen, reports)

    def _collect(self, step: int) -> tuple[list[ScoredGroup], list[ScoredGroup]]:
        """This process's share of the batch, and everything that was sampled for it."""
        settings = self._settings
        if not settings.samples_dynamically:
            scored = self._sample(step, 0, settings.batch_size)
            return scored, scored
        wanted = settings.batch_size // self._context.ranks.world_size
        kept, seen = self._surplus, list(self._surplus)
        for round_number in range(settings.max_generation_rounds):
            if not self._context.ranks.any(len(kept) < wanted):
                break
            count = settings.generation_batch_size or 3 * settings.batch_size
            scored = self._sample(step, round_number, count)
            seen += scored
            kept = kept + [s for s in scored if s.is_informative]
        if self._context.ranks.any(len(kept) < wanted):
            raise DataError(
                f"step {step}: after {settings.max_generation_rounds} rounds only {len(kept)} of "
                f"{wanted} prompts have right and wrong answers; the data is too easy or too hard: "
                "filter it by pass rate, or turn dynamicSampling off"
            )
        self._surplus = kept[wanted:]
        return kept[:wanted], seen

    def _sample(self, step: int, round_number: int, count: int) -> list[ScoredGroup]:
        rows = self._source.rows("rlvr", self._position, count)
        self._position += count
        groups = self._source.sample(
            rows, self._settings.rollouts_per_prompt, ("rlvr", step, round_number)
        )
        return [self._score(group) for group in groups]

    def _score(self, group: SampledGroup) -> ScoredGroup:
        weights = RewardWeights(self._settings.accuracy_weight, self._settings.format_weight)
        rewards = tuple(score(text, group.row.truths, weights) for text in group.texts)
        totals = [
            reward.total + self._length_penalty(len(completion.tokens))
            for reward, completion in zip(rewards, group.completions, strict=True)
        ]
        return ScoredGroup(group, rewards, torch.tensor(totals, dtype=torch.float64))

    def _length_penalty(self, length: int) -> float:
        overlong = self._settings.overlong
        if overlong is None:
            return 0.0
        limit = self._settings.max_response_tokens
        return overlong_penalty(length, limit, overlong.buffer_tokens, overlong.penalty_factor)

    def _step_policy(
        self, batch: Sequence[ScoredGroup], advantages: Sequence[Tensor], step: int
    ) -> list[UpdateReport]:
        parts = self._settings.mini_batches
        groups = [scored.group for scored in batch]
        old = self._update.old_logprobs(groups) if parts > 1 else None
        size = len(groups) // parts
        reports = []
        for part in range(parts):
            chosen = slice(part * size, (part + 1) * size)
            number = step * parts + part
            reports.append(self._update.run(groups[chosen], advantages[chosen], number, old))
        return reports

    def _metrics(
        self,
        batch: Sequence[ScoredGroup],
        seen: Sequence[ScoredGroup],
        reports: Sequence[UpdateReport],
    ) -> Metrics:
        rewards = [reward for scored in seen for reward in scored.rewards]
        count, total, accuracy, form, informative, groups = self._context.ranks.sum_floats(
            float(len(rewards)),
            float(sum(float(scored.totals.sum()) for scored in seen)),
            float(sum(reward.accuracy for reward in rewards)),
            float(sum(reward.format for reward in rewards)),
            float(sum(scored.is_informative for scored in seen)),
            float(len(seen)),
        )
        last = reports[-1]
        return {
            "loss": sum(report.step.loss for report in reports) / len(reports),
            "reward": total / count,
            "accuracy": accuracy / count,
            "format_rate": form / count,
            "informative_groups": informative / groups,
            "clip_fraction": sum(report.clip_fraction for report in reports) / len(reports),
            "entropy": last.entropy,
            "kl": last.kl,
            "grad_norm": last.step.grad_norm,
            "learning_rate": last.step.learning_rate,
            "tokens": float(sum(report.step.num_tokens for report in reports)),
            **response_metrics(self._context, [scored.group for scored in batch]),
        }

    def facts(self) -> dict[str, Any]:
        """Position in the prompts, and the surplus groups of every process."""
        mine = [
            {"row": s.group.row_index, "completions": [_to_json(c) for c in s.group.completions]}
            for s in self._surplus
        ]
        return {"position": self._position, "surplus": self._context.ranks.gather(mine)}

    def load_facts(self, facts: dict[str, Any]) -> None:
        """Restore what `facts` gave."""
        self._position = facts["position"]
        self._surplus = [
            self._score(self._source.regroup(s["row"], [_from_json(c) for c in s["completions"]]))
            for s in facts["surplus"][self._context.ranks.rank]
        ]


def _advantages(scored: ScoredGroup) -> Tensor:
    if any(reward.verdict is Verdict.UNVERIFIABLE for reward in scored.rewards):
        return torch.zeros_like(scored.totals)
    return group_normalise(scored.totals[None])[0]


def _to_json(completion: Completion) -> dict[str, Any]:
    return {
        "tokens": completion.tokens.tolist(),
        "logprobs": completion.logprobs.tolist(),
        "finished": completion.finished,
        "weight_version": completion.weight_version,
    }


def _from_json(document: dict[str, Any]) -> Completion:
    return Completion(
        np.array(document["tokens"], dtype=np.int64),
        np.array(document["logprobs"], dtype=np.float32),
        document["finished"],
        document["weight_version"],
    )
