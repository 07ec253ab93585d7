"""The policy's optimizer step on sampled groups with given advantages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prism_api.algorithms import PolicyObjective
from prism_api.memory import reference_is_within
from prism_api.resources import Engine
from prism_api.stages import AlignStage, RlvrStage
from prism_trainer.engine.packing import Pack
from prism_trainer.engine.policy import Policy, StepReport
from prism_trainer.losses.correction import rollout_weights
from prism_trainer.losses.policy import (
    PolicyLossInputs,
    PolicyLossOutputs,
    kl_penalty,
    policy_loss,
    token_weights,
)
from prism_trainer.models import load_policy
from prism_trainer.stages.program import Metrics, StageContext
from prism_trainer.stages.rollout_gap import RolloutGap, gap_metrics, joined
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
    gap: RolloutGap
    """Empty without a rollout correction."""


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
        **gap_metrics(joined([report.gap for report in reports])),
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
        loaded = load_policy(context.initial_model, False)
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
        1. With a rollout correction, token losses are weighted by the old log-probabilities against
        those that the responses came with.
        """
        tokens = float(sum(len(c.tokens) for g in groups for c in g.completions))
        responses = float(sum(len(g.completions) for g in groups))
        totals = self._context.ranks.sum_floats(tokens, responses)
        if not totals[0]:
            return None
        old = old_logprobs or [[None] * len(g.completions) for g in groups]
        kept = [i for i, a in enumerate(advantages) if self._matters(a)]
        policy, sums = self._context.policy, _Sums()
        packs = policy.packs([groups[i].packed() for i in kept])
        parts = [_responses(groups[i], advantages[i], old[i]) for i in kept]
        by_pack = _split_like(packs, [response for part in parts for response in part])

        def loss_of(i: int, pack: Pack) -> Tensor:
            return self._loss(pack, by_pack[i], totals, sums)

        report = policy.update(packs, loss_of, step)
        return self._report(report, sums)

    def _matters(self, advantages: Tensor) -> bool:
        regularised = self._settings.kl_coef or self._settings.entropy_coef
        return bool(regularised) or bool((advantages.abs() > 1e-8).any())

    def _loss(
        self, pack: Pack, responses: Sequence["_Response"], totals: list[float], sums: "_Sums"
    ) -> Tensor:
        reference = self._reference_logprobs(pack) if self._settings.kl_coef else None
        logprobs, entropy = self._context.policy.logprobs(pack, self._settings.temperature)
        lengths = torch.tensor(pack.lengths, dtype=torch.long, device=logprobs.device)
        old_logprobs = _old_logprobs(responses, logprobs.detach(), pack.lengths)
        inputs = PolicyLossInputs(
            logprobs=logprobs,
            old_logprobs=old_logprobs,
            advantages=logprobs.new_tensor([r.advantage for r in responses]),
            response_index=pack.continuation_index,
            response_lengths=lengths,
            total_tokens=totals[0],
            total_responses=totals[1],
            max_response_tokens=self._settings.max_response_tokens,
            correction=self._correction(pack, responses, old_logprobs, sums.gap),
        )
        outputs: PolicyLossOutputs = policy_loss(inputs, self._objective)
        loss = outputs.loss - self._settings.entropy_coef * entropy.sum() / totals[0]
        if reference is not None:
            penalty = kl_penalty(logprobs, reference, self._settings.kl_estimator)
            weighted = penalty * token_weights(inputs, self._objective)
            loss = loss + self._settings.kl_coef * weighted.sum()
            sums.kl += float(penalty.detach().sum())
        sums.clipped += float(outputs.clipped_tokens)
        sums.entropy += float(entropy.detach().sum())
        sums.tokens += len(pack.targets)
        return loss

    def _correction(
        self, pack: Pack, responses: Sequence["_Response"], old_logprobs: Tensor, seen: RolloutGap
    ) -> Tensor | None:
        """[targets] weights for what rollout servers sampled; what they correct is counted."""
        settings = self._settings.rollout_correction
        if settings is None:
            return None
        sampled = np.concatenate([_NO_LOGPROBS, *(r.sampled_logprobs for r in responses)])
        gap = old_logprobs - torch.from_numpy(sampled).to(old_logprobs)
        weights, is_cut = rollout_weights(gap, pack.continuation_index, len(pack.lengths), settings)
        seen.add(gap, is_cut)
        return weights

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
        if self._settings.rollout_correction is not None:
            sums.gap = joined(self._context.ranks.gather(sums.gap))
        return UpdateReport(report, tokens, clipped, entropy, kl, sums.gap)


@dataclass
class _Sums:
    clipped: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    tokens: int = 0
    gap: RolloutGap = field(default_factory=RolloutGap)


_NO_LOGPROBS = np.empty(0, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class _Response:
    """What a response comes with."""

    advantage: float
    old_logprobs: Tensor | None
    sampled_logprobs: NDArray[np.float32]


def _responses(group: SampledGroup, advantages: Tensor, old: OldLogprobs) -> list[_Response]:
    rows = zip(advantages.tolist(), old, group.completions, strict=True)
    return [_Response(advantage, before, c.logprobs) for advantage, before, c in rows]


def _split_like(packs: Sequence[Pack], values: Iterable[T]) -> list[list[T]]:
    """One value per response, in order, as one list per pack."""
    rest = iter(values)
    return [list(islice(rest, len(pack.lengths))) for pack in packs]


def _old_logprobs(
    responses: Sequence[_Response], current: Tensor, lengths: Sequence[int]
) -> Tensor:
    """[targets], the current ones where there are none."""
    if not responses:
        return current
    pairs = zip(responses, current.split(list(lengths)), strict=True)
    return torch.cat(
        [now if r.old_logprobs is None else r.old_logprobs.to(now) for r, now in pairs]
    )
