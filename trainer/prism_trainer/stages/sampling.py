"""What alignment and RLVR share: prompts, sampled groups, the policy's update from advantages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prism_api.errors import DataError
from prism_api.stages import AlignStage, RlvrStage
from prism_trainer.data.rows import Dataset, Row
from prism_trainer.data.sampler import rows_at
from prism_trainer.engine.packing import Group, Pack, Prompt
from prism_trainer.engine.policy import Policy, StepReport
from prism_trainer.losses.policy import (
    PolicyLossInputs,
    PolicyLossOutputs,
    PolicyObjective,
    kl_penalty,
    policy_loss,
)
from prism_trainer.models import load_policy
from prism_trainer.rollouts import Completion, Request, SamplingParams
from prism_trainer.seeds import derive_seed
from prism_trainer.stages.program import Metrics, StageContext


@dataclass(frozen=True, eq=False)
class SampledGroup:
    """One prompt and the policy's responses to it."""

    row: Row
    row_index: int
    prompt: Prompt
    completions: tuple[Completion, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class UpdateReport:
    """How the policy's update went; means over the batch's response tokens."""

    step: StepReport
    clip_fraction: float
    entropy: float
    kl: float


class PromptSource:
    """Prompts of a data set in their shuffled order; prompts beyond the length limit are passed
    over."""

    def __init__(
        self, context: StageContext, settings: AlignStage | RlvrStage, data: Dataset
    ) -> None:
        self._context, self._settings, self.data = context, settings, data

    def rows(self, purpose: str, position: int, count: int) -> list[int]:
        """This process's share of the rows at a position of the endless shuffled sequence."""
        ranks, seed = self._context.ranks, self._context.config.seed
        rows = rows_at(len(self.data), seed, purpose, position, count)
        return rows[ranks.rank :: ranks.world_size]

    def sample(
        self, rows: Sequence[int], count: int, key: tuple[int | str, ...]
    ) -> list[SampledGroup]:
        """`count` responses to each row's prompt, keyed by (run seed, key, row, response)."""
        seed = self._context.config.seed
        read = [self.data[index] for index in rows]
        prompts = self._prompts(read)
        requests = [
            Request(prompt, tuple(derive_seed(seed, *key, index, n) for n in range(count)), row)
            for prompt, index, row in zip(prompts, rows, read, strict=True)
        ]
        params = SamplingParams(self._settings.max_response_tokens, self._settings.temperature)
        groups = self._context.client.generate(requests, params)
        return [
            self._group(index, prompt, completions)
            for index, prompt, completions in zip(rows, prompts, groups, strict=True)
        ]

    def regroup(self, index: int, completions: Sequence[Completion]) -> SampledGroup:
        """A group from completions that are already there (resume)."""
        return self._group(index, self._prompts([self.data[index]])[0], completions)

    def _group(self, index: int, prompt: Prompt, completions: Sequence[Completion]) -> SampledGroup:
        texts = tuple(self._context.encoder.text(c.tokens) for c in completions)
        return SampledGroup(self.data[index], index, prompt, tuple(completions), texts)

    def _prompts(self, rows: Sequence[Row]) -> list[Prompt]:
        prompts = self._context.encoder.prompts(rows)
        for row, prompt in zip(rows, prompts, strict=True):
            if len(prompt.token_ids) > self._settings.max_prompt_tokens:
                raise DataError(
                    f"{row.origin}: the prompt has {len(prompt.token_ids)} tokens, "
                    f"maxPromptTokens is {self._settings.max_prompt_tokens}; "
                    "raise it or remove the row"
                )
        return prompts


class PolicyUpdate:
    """Steps the policy on sampled groups with given advantages."""

    def __init__(
        self, context: StageContext, settings: AlignStage | RlvrStage, objective: PolicyObjective
    ) -> None:
        self._context, self._settings, self._objective = context, settings, objective
        self._reference = self._load_reference() if settings.kl_coef else None

    def _load_reference(self) -> Policy:
        """The stage's initial policy, frozen."""
        context = self._context
        loaded = load_policy(context.initial_model, False, context.ranks.device)
        loaded.model.requires_grad_(False)
        precision = context.config.workers.precision
        return Policy(loaded.model, context.ranks, precision, self._settings.max_tokens_per_pack)

    def old_logprobs(self, groups: Sequence[SampledGroup]) -> dict[int, Tensor]:
        """The current policy's log-probabilities per group (by identity), for ratios of
        later steps."""
        result = {}
        for group in groups:
            packs = self._context.policy.packs([_training_group(group)])
            result[id(group)] = torch.cat(
                self._context.policy.detached_logprobs(packs, self._settings.temperature)
            )
        return result

    def run(
        self,
        groups: Sequence[SampledGroup],
        advantages: Sequence[Tensor],
        step: int,
        old_logprobs: dict[int, Tensor] | None = None,
    ) -> UpdateReport:
        """One optimizer step; advantages are one [responses] per group.

        Groups whose advantages are all zero have no gradient and are left out of the passes, but
        count in the averages. Without old log-probabilities the batch is on-policy: every ratio is
        1.
        """
        tokens = float(sum(len(c.tokens) for g in groups for c in g.completions))
        responses = float(sum(len(g.completions) for g in groups))
        totals = self._context.ranks.sum_floats(tokens, responses)
        kept = [i for i, a in enumerate(advantages) if self._matters(a)]
        policy, sums = self._context.policy, _Sums()
        packs = policy.packs([_training_group(groups[i]) for i in kept])
        flat_advantages = _split_like(packs, [a for i in kept for a in advantages[i].split(1)])
        old = None
        if old_logprobs is not None and kept:
            flat = torch.cat([old_logprobs[id(groups[i])] for i in kept])
            old = flat.split([len(pack.targets) for pack in packs])

        def loss_of(i: int, pack: Pack) -> Tensor:
            before = None if old is None else old[i]
            return self._loss(pack, flat_advantages[i], before, totals, sums)

        report = policy.update(packs, loss_of, step)
        return self._report(report, sums)

    def _matters(self, advantages: Tensor) -> bool:
        regularised = self._settings.kl_coef or self._settings.entropy_coef
        return bool(regularised) or bool((advantages.abs() > 1e-8).any())

    def _loss(
        self, pack: Pack, advantages: Tensor, old: Tensor | None, totals: list[float], sums: "_Sums"
    ) -> Tensor:
        logprobs, entropy = self._context.policy.logprobs(pack, self._settings.temperature)
        lengths = torch.tensor(pack.lengths, device=logprobs.device)
        inputs = PolicyLossInputs(
            logprobs=logprobs,
            old_logprobs=logprobs.detach() if old is None else old,
            advantages=advantages.to(logprobs),
            response_index=pack.continuation_index,
            response_lengths=lengths,
            total_tokens=totals[0],
            total_responses=totals[1],
        )
        outputs: PolicyLossOutputs = policy_loss(inputs, self._objective)
        loss = outputs.loss - self._settings.entropy_coef * entropy.sum() / totals[0]
        if self._reference is not None:
            with torch.no_grad():
                reference = self._reference.logprobs(pack, self._settings.temperature)[0]
            penalty = kl_penalty(logprobs, reference).sum()
            loss = loss + self._settings.kl_coef * penalty / totals[0]
            sums.kl += float(penalty.detach())
        sums.clipped += float(outputs.clipped_tokens)
        sums.entropy += float(entropy.detach().sum())
        sums.tokens += len(pack.targets)
        return loss

    def _report(self, report: StepReport, sums: "_Sums") -> UpdateReport:
        clipped, entropy, kl, tokens = self._context.ranks.sum_floats(
            sums.clipped, sums.entropy, sums.kl, float(sums.tokens)
        )
        tokens = max(1.0, tokens)
        return UpdateReport(report, clipped / tokens, entropy / tokens, kl / tokens)


@dataclass
class _Sums:
    clipped: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    tokens: int = 0


def _training_group(group: SampledGroup) -> Group:
    return Group(group.prompt, tuple(c.tokens for c in group.completions))


def _split_like(packs: Sequence[Pack], values: Sequence[Tensor]) -> list[Tensor]:
    """One [responses] tensor per pack from one value per response, in order."""
    parts, start = [], 0
    for pack in packs:
        parts.append(torch.cat(list(values[start : start + len(pack.lengths)])))
        start += len(pack.lengths)
    return parts


def response_metrics(context: StageContext, groups: Sequence[SampledGroup]) -> Metrics:
    """Length and completeness of the batch's responses."""
    completions = [c for g in groups for c in g.completions]
    count, tokens, finished = context.ranks.sum_floats(
        float(len(completions)),
        float(np.sum([len(c.tokens) for c in completions])),
        float(np.sum([c.finished for c in completions])),
    )
    return {"response_tokens": tokens / count, "finished_rate": finished / count}
