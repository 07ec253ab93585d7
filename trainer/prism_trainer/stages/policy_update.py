"""The policy's optimizer step on sampled groups with given advantages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from prism_api.algorithms import PolicyObjective
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
        self._reference = self._load_reference() if settings.kl_coef else None

    def _load_reference(self) -> Policy:
        """The stage's initial policy, frozen."""
        context = self._context
        loaded = load_policy(context.initial_model, False, context.ranks.device)
        loaded.model.requires_grad_(False)
        precision = context.config.workers.precision
        return Policy(loaded.model, context.ranks, precision, self._settings.max_tokens_per_pack)

    def current_logprobs(self, group: SampledGroup) -> list[Tensor]:
        """The current policy's log-probabilities of each response, [tokens] each."""
        policy = self._context.policy
        packs = policy.packs([group.packed()])
        flat = torch.cat(policy.detached_logprobs(packs, self._settings.temperature))
        return list(flat.split([len(c.tokens) for c in group.completions]))

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
            return self._loss(pack, torch.cat(flat_advantages[i]), flat_old[i], totals, sums)

        report = policy.update(packs, loss_of, step)
        return self._report(report, sums)

    def _matters(self, advantages: Tensor) -> bool:
        regularised = self._settings.kl_coef or self._settings.entropy_coef
        return bool(regularised) or bool((advantages.abs() > 1e-8).any())

    def _loss(
        self, pack: Pack, advantages: Tensor, old: OldLogprobs, totals: list[float], sums: "_Sums"
    ) -> Tensor:
        logprobs, entropy = self._context.policy.logprobs(pack, self._settings.temperature)
        lengths = torch.tensor(pack.lengths, device=logprobs.device)
        inputs = PolicyLossInputs(
            logprobs=logprobs,
            old_logprobs=_filled(old, logprobs.detach().split(pack.lengths)),
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
        return UpdateReport(report, tokens, clipped, entropy, kl)


@dataclass
class _Sums:
    clipped: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    tokens: int = 0


def _split_like(packs: Sequence[Pack], values: Iterable[T]) -> list[list[T]]:
    """One value per response, in order, as one list per pack."""
    rest = iter(values)
    return [list(islice(rest, len(pack.lengths))) for pack in packs]


def _filled(old: OldLogprobs, current: Sequence[Tensor]) -> Tensor:
    """Old log-probabilities [targets], the current ones where there are none."""
    pairs = zip(old, current, strict=True)
    return torch.cat([now if before is None else before.to(now) for before, now in pairs])
