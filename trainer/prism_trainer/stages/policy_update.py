"""The policy's optimizer step on sampled groups with given advantages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from prism_api.algorithms import PolicyObjective
from prism_api.memory import reference_is_within
from prism_api.resources import Engine
from prism_api.stages import AlignStage, RlvrStage
from prism_trainer.engine.packing import Pack
from prism_trainer.engine.policy import Policy, StepReport
from prism_trainer.losses.policy import (
    PolicyLossInputs,
    PolicyLossOutputs,
    kl_penalty,
    policy_loss,
)
from prism_trainer.models import load_policy
from prism_trainer.stages.program import Metrics, StageContext
from prism_trainer.stages.sampling import SampledGroup

T = TypeVar("T")
OldLogprobs = Sequence[Tensor | None]
"""Per response of a group [tokens]: of the policy that its ratios compare with. None: of the policy
as the update finds it, so that every ratio is 1."""


@dataclass(frozen=True)
class UpdateReport:
    """How one optimizer step went; sums over the response tokens that were trained on, over all
    processes."""

    step: StepReport
    tokens: float
    clipped_tokens: float
    entropy: float
    kl: float


def update_metrics(reports: Sequence[UpdateReport]) -> Metrics:
    """Metrics of a batch's optimizer steps; clip fraction, entropy and KL are means over the tokens
    that were trained on, and absent where no token was."""
    last, tokens = reports[-1].step, sum(report.tokens for report in reports)
    metrics = {
        "loss": sum(report.step.loss for report in reports) / len(reports),
        "grad_norm": last.grad_norm,
        "learning_rate": last.learning_rate,
        "tokens": float(sum(report.step.num_tokens for report in reports)),
    }
    if not tokens:
        return metrics
    return metrics | {
        "clip_fraction": sum(report.clipped_tokens for report in reports) / tokens,
        "entropy": sum(report.entropy for report in reports) / tokens,
        "kl": sum(report.kl for report in reports) / tokens,
    }


class PolicyUpdate:
    """Steps the policy on sampled groups with given advantages."""

    def __init__(
        self, context: StageContext, settings: AlignStage | RlvrStage, objective: PolicyObjective
    ) -> None:
        self._context, self._settings, self._objective = context, settings, objective
        within = reference_is_within(settings)
        self._reference = None if within or not settings.kl_coef else self._load_reference()

    def _load_reference(self) -> Policy:
        """The stage's initial policy, frozen."""
        context = self._context
        loaded = load_policy(context.initial_model, False, context.ranks.device)
        loaded.model.requires_grad_(False)
        workers, max_tokens = context.config.workers, self._settings.max_tokens_per_pack
        # DeepSpeed shards only what it trains.
        engine: Engine = "fsdp2" if workers.engine == "fsdp2" else "replicated"
        return Policy(loaded.model, context.ranks, workers.precision, max_tokens, engine)

    def current_logprobs(self, groups: Sequence[SampledGroup]) -> list[list[Tensor]]:
        """The current policy's log-probabilities of each group's responses, [tokens] each.

        All processes call it together, also one that has no group.
        """
        policy = self._context.policy
        packs = policy.packs([group.packed() for group in groups])
        flat = policy.detached_logprobs(packs, self._settings.temperature)
        pieces = (
            piece
            for pack, logprobs in zip(packs, flat, strict=True)
            for piece in logprobs.split(pack.lengths)
        )
        return [list(islice(pieces, len(group.completions))) for group in groups]

    def run(
        self,
        groups: Sequence[SampledGroup],
        advantages: Sequence[Tensor],
        step: int,
        old_logprobs: Sequence[OldLogprobs] | None = None,
    ) -> UpdateReport | None:
        """One optimizer step; advantages are one [responses] per group. None, and no step, if no
        process has a token.

        Groups whose advantages are all zero have no gradient and are left out of the passes, but
        count in the averages. Without old log-probabilities the batch is on-policy: every ratio is
        1.
        """
        tokens = float(sum(len(c.tokens) for g in groups for c in g.completions))
        responses = float(sum(len(g.completions) for g in groups))
        totals = self._context.ranks.sum_floats(tokens, responses)
        if not totals[0]:
            return None
        kept = [i for i, a in enumerate(advantages) if self._matters(a)]
        policy, sums = self._context.policy, _Sums()
        packs = policy.packs([groups[i].packed() for i in kept])
        flat_advantages = _split_like(packs, [a for i in kept for a in advantages[i].split(1)])
        old = old_logprobs or [[None] * len(g.completions) for g in groups]
        flat_old = _split_like(packs, [o for i in kept for o in old[i]])

        def loss_of(i: int, pack: Pack) -> Tensor:
            chosen = torch.cat([_NONE, *flat_advantages[i]])
            return self._loss(pack, chosen, flat_old[i], totals, sums)

        report = policy.update(packs, loss_of, step)
        return self._report(report, sums)

    def _matters(self, advantages: Tensor) -> bool:
        regularised = self._settings.kl_coef or self._settings.entropy_coef
        return bool(regularised) or bool((advantages.abs() > 1e-8).any())

    def _loss(
        self, pack: Pack, advantages: Tensor, old: OldLogprobs, totals: list[float], sums: "_Sums"
    ) -> Tensor:
        reference = self._reference_logprobs(pack) if self._settings.kl_coef else None
        logprobs, entropy = self._context.policy.logprobs(pack, self._settings.temperature)
        lengths = torch.tensor(pack.lengths, dtype=torch.long, device=logprobs.device)
        inputs = PolicyLossInputs(
            logprobs=logprobs,
            old_logprobs=_filled(old, logprobs.detach(), pack.lengths),
            advantages=advantages.to(logprobs),
            response_index=pack.continuation_index,
            response_lengths=lengths,
            total_tokens=totals[0],
            total_responses=totals[1],
        )
        outputs: PolicyLossOutputs = policy_loss(inputs, self._objective)
        loss = outputs.loss - self._settings.entropy_coef * entropy.sum() / totals[0]
        if reference is not None:
            penalty = kl_penalty(logprobs, reference).sum()
            loss = loss + self._settings.kl_coef * penalty / totals[0]
            sums.kl += float(penalty.detach())
        sums.clipped += float(outputs.clipped_tokens)
        sums.entropy += float(entropy.detach().sum())
        sums.tokens += len(pack.targets)
        return loss

    def _reference_logprobs(self, pack: Pack) -> Tensor:
        """The initial policy's: its own copy, or the current one without adapters."""
        temperature = self._settings.temperature
        if self._reference is None:
            return self._context.policy.initial_logprobs(pack, temperature)
        return self._reference.initial_logprobs(pack, temperature)

    def _report(self, report: StepReport, sums: "_Sums") -> UpdateReport:
        clipped, entropy, kl, tokens = self._context.ranks.sum_floats(
            sums.clipped, sums.entropy, sums.kl, float(sums.tokens)
        )
        return UpdateReport(report, tokens, clipped, entropy, kl)


@dataclass
class _Sums:
    clipped: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    tokens: int = 0


_NONE = torch.empty(0, dtype=torch.float64)


def _split_like(packs: Sequence[Pack], values: Iterable[T]) -> list[list[T]]:
    """One value per response, in order, as one list per pack."""
    rest = iter(values)
    return [list(islice(rest, len(pack.lengths))) for pack in packs]


def _filled(old: OldLogprobs, current: Tensor, lengths: Sequence[int]) -> Tensor:
    """Old log-probabilities [targets], the current ones where there are none."""
    if not old:
        return current
    pairs = zip(old, current.split(list(lengths)), strict=True)
    return torch.cat([now if before is None else before.to(now) for before, now in pairs])
