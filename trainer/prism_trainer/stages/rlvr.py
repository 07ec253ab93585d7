"""Stage 3: reinforcement learning with verifiable rewards (GRPO, DAPO, GSPO, Dr.GRPO, CISPO).

Reward of a response: accuracyWeight x right answer + formatWeight x format, as the published rules
say; advantage within its group and loss: the algorithm's row. An unverifiable row (bad gold answer)
gives its whole group advantage 0.
"""

from collections.abc import Sequence
from typing import Any

import torch

from prism_api.stages import RlvrStage
from prism_trainer.data.rows import Dataset
from prism_trainer.distributed import Ranks
from prism_trainer.losses.policy import objective_of
from prism_trainer.record import Usage
from prism_trainer.rollouts import Completion
from prism_trainer.stages.dynamic_sampling import DynamicSampling
from prism_trainer.stages.graded import GradedGroup, grade
from prism_trainer.stages.policy_update import (
    OldLogprobs,
    PolicyUpdate,
    UpdateReport,
    update_metrics,
)
from prism_trainer.stages.program import Iteration, Metrics, Phase, StageContext, Stateless
from prism_trainer.stages.prompts import PromptSource
from prism_trainer.stages.sampling import (
    SampledGroup,
    from_document,
    response_metrics,
    sample,
    to_document,
)

_PURPOSE = "rlvr"


class RlvrProgram(Stateless):
    """Samples, verifies, steps; keeps the surplus of dynamic sampling for the next step."""

    def __init__(self, context: StageContext, settings: RlvrStage) -> None:
        self._context, self._settings = context, settings
        self._source = PromptSource(context, Dataset([settings.data], "truth"))
        self.phases = (Phase("train", settings.steps, settings.mini_batches),)
        context.policy.start_training(settings, settings.steps * settings.mini_batches)
        self._update = PolicyUpdate(context, settings, objective_of(settings))
        self._position = 0
        self._dynamic = DynamicSampling[GradedGroup](
            context.ranks, settings.batch_size, settings.max_generation_rounds
        )

    def iterate(self, phase: str, step: int) -> Iteration:
        """Sample a batch, reward it, and take one optimizer step per mini-batch."""
        start = self._position
        batch, sampled = self._collect(step)
        positions = range(start, self._position)
        members = self._mini_batches(batch)
        reports = self._step_policy(batch, members, step)
        trained = [[batch[i].group.use for i in chosen] for chosen in members]
        usage = Usage(positions, [graded.group.use for graded in sampled], trained)
        metrics = self._sample_metrics(sampled, len(positions)) | update_metrics(reports)
        return Iteration(metrics, usage)

    def _mini_batches(self, batch: Sequence[GradedGroup]) -> list[list[int]]:
        places = [graded.group.draw.position for graded in batch]
        return mini_batches(places, self._settings.mini_batches, self._context.ranks)

    def _collect(self, step: int) -> tuple[list[GradedGroup], list[GradedGroup]]:
        """This process's share of the batch, and everything that was sampled for it."""
        settings = self._settings
        if not settings.samples_dynamically:
            groups = self._sample(step, 0, settings.batch_size)
            return groups, groups
        count = settings.generation_batch_size or 3 * settings.batch_size
        return self._dynamic.fill(step, lambda number: self._sample(step, number, count))

    def _sample(self, step: int, round_number: int, count: int) -> list[GradedGroup]:
        draws, _ = self._source.batch(_PURPOSE, self._position, count)
        self._position += count
        key = ("rlvr", step, round_number)
        responses = self._settings.rollouts_per_prompt
        groups = sample(self._context, self._settings, draws, responses, key)
        return grade(groups, self._settings)

    def _step_policy(
        self, batch: Sequence[GradedGroup], members: Sequence[Sequence[int]], step: int
    ) -> list[UpdateReport]:
        """An optimizer step on each mini-batch, whose groups `members` names."""
        parts = self._settings.mini_batches
        old = self._old_logprobs([graded.group for graded in batch], step * parts)
        reports = [
            self._update.run(
                [batch[i].group for i in chosen],
                [batch[i].advantages for i in chosen],
                step * parts + part,
                [old[i] for i in chosen],
            )
            for part, chosen in enumerate(members)
        ]
        return [report for report in reports if report is not None]

    def _old_logprobs(self, groups: Sequence[SampledGroup], version: int) -> list[OldLogprobs]:
        """What ratios compare with where the policy has moved on since a response was sampled.

        A surplus response of older weights than `version` has the log-probabilities that it was
        drawn with. A fresh one is on-policy in its batch's first optimizer step and, if there are
        further ones, needs the current policy's. With a rollout correction all count as fresh: the
        correction's weights are what leads from the weights that sampled to the current ones.
        """
        corrected = self._settings.rollout_correction is not None
        recorded: list[OldLogprobs] = [
            [
                _recorded(c) if c.weight_version < version and not corrected else None
                for c in group.completions
            ]
            for group in groups
        ]
        if self._settings.mini_batches == 1:
            return recorded
        fresh = [i for i, old in enumerate(recorded) if any(value is None for value in old)]
        # Without a fresh group too: all processes make the same passes.
        values = self._update.current_logprobs([groups[i] for i in fresh])
        current = dict(zip(fresh, values, strict=True))
        return [_completed(old, current.get(i, old)) for i, old in enumerate(recorded)]

    def _sample_metrics(self, sampled: Sequence[GradedGroup], drawn: int) -> Metrics:
        """Every group counts in the step that sampled it; a step of surplus only has no reward."""
        rewards = [reward for graded in sampled for reward in graded.rewards]
        count, total, accuracy, form, informative, groups = self._context.ranks.sum_floats(
            float(len(rewards)),
            float(sum(float(graded.totals.sum()) for graded in sampled)),
            float(sum(reward.accuracy for reward in rewards)),
            float(sum(reward.format for reward in rewards)),
            float(sum(graded.is_informative for graded in sampled)),
            float(len(sampled)),
        )
        if groups == 0:
            return {"dropped_samples": 0.0}
        return response_metrics(self._context, [graded.group for graded in sampled]) | {
            "reward": total / count,
            "accuracy": accuracy / count,
            "format_rate": form / count,
            "informative_groups": informative / groups,
            "dropped_samples": drawn - groups,
        }

    def facts(self) -> dict[str, Any]:
        """Position in the prompts, and the surplus groups of every process."""
        mine = [to_document(graded.group) for graded in self._dynamic.surplus]
        return {"position": self._position, "surplus": self._context.ranks.gather(mine)}

    def load_facts(self, facts: dict[str, Any]) -> None:
        """Restore what `facts` gave."""
        self._position = facts["position"]
        mine = facts["surplus"][self._context.ranks.rank]
        draws = self._source.draws(_PURPOSE, [document["position"] for document in mine])
        groups = [
            from_document(self._context, draw, document)
            for draw, document in zip(draws, mine, strict=True)
        ]
        self._dynamic.surplus = grade(groups, self._settings)


def mini_batches(places: Sequence[int], parts: int, ranks: Ranks) -> list[list[int]]:
    """Which of this process's groups each mini-batch holds, as indices into `places`.

    The batch of all processes, in the order of its places, is cut into parts that differ by one
    group at most. So what a mini-batch holds does not depend on the number of processes, nor do
    their optimizer steps, even where a process has fewer groups or none.
    """
    everyone = sorted(place for part in ranks.gather(list(places)) for place in part)
    number = {place: i * parts // len(everyone) for i, place in enumerate(everyone)}
    return [[i for i, p in enumerate(places) if number[p] == part] for part in range(parts)]


def _completed(old: OldLogprobs, current: OldLogprobs) -> OldLogprobs:
    return [now if value is None else value for value, now in zip(old, current, strict=True)]


def _recorded(completion: Completion) -> torch.Tensor:
    return torch.from_numpy(completion.logprobs)
