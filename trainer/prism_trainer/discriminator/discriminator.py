"""The discriminator at work: scores for rewards, and one optimizer step against the policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prism_api import stages
from prism_api.resources import Engine
from prism_trainer.discriminator.comparison import Comparison, chunks
from prism_trainer.discriminator.model import DiscriminatorModel
from prism_trainer.discriminator.routing import allowed_experts
from prism_trainer.distributed import Ranks
from prism_trainer.engine.packing import Pack
from prism_trainer.engine.policy import Network, StepReport, hidden_states
from prism_trainer.losses.adversarial import PairScores, load_balance_loss, pair_loss


@dataclass(frozen=True)
class ScoredBatch:
    """Scores of a batch of comparisons, and what the update needs of the same forward pass."""

    scores: list[PairScores]
    """One per comparison, detached."""
    expert_shares: Tensor
    """[layers, experts] mean number of a token's choices per expert, over all processes."""
    total_tokens: float


class Discriminator(Network):
    """Scores caption and reasoning of responses against a teacher's."""

    model: DiscriminatorModel

    def __init__(
        self,
        model: DiscriminatorModel,
        settings: stages.Discriminator,
        ranks: Ranks,
        precision: str,
        max_tokens: int,
        engine: Engine = "replicated",
    ) -> None:
        super().__init__(model, ranks, precision, max_tokens, engine)
        self.settings = settings

    @property
    def _config(self) -> Any:
        return self.model.tower.config

    def score(self, comparisons: Sequence[Comparison]) -> ScoredBatch:
        """Scores without dropout and without gradient, prompt and image encoded once each."""
        parts, owners = self._divide(comparisons)
        scores: list[PairScores] = []
        counts = torch.zeros(())
        tokens = 0
        with torch.no_grad(), self.autocast():
            for pack, members in self._packs(parts):
                values = self._scores(pack, None)
                scores += _by_comparison(values, members)
                counts = counts + self.model.routing.choice_counts()
                tokens += pack.num_tokens
        (total_tokens,) = self.ranks.sum_floats(float(tokens))
        shares = self.ranks.sum_(counts.double().to(self.ranks.device)) / total_tokens
        return ScoredBatch(_merge(scores, owners, len(comparisons)), shares, total_tokens)

    def train_on(
        self, comparisons: Sequence[Comparison], scored: ScoredBatch, step: int
    ) -> StepReport:
        """One optimizer step on all pairs of the batch."""
        parts, _ = self._divide(comparisons)
        pairs, prompts = self.ranks.sum_floats(
            sum(len(c.students) for c in comparisons), float(len(comparisons))
        )
        packed = self._packs(parts)
        coefficient = self.settings.load_balance_coef

        def loss_of(i: int, pack: Pack) -> Tensor:
            members = packed[i][1]
            values = self._scores(pack, members)
            losses = [
                pair_loss(s, pairs, prompts, self.settings) for s in _by_comparison(values, members)
            ]
            pairs_loss = torch.stack(losses).sum() if losses else values.sum()
            return pairs_loss + coefficient * self._balance(scored)

        return self.update([pack for pack, _ in packed], loss_of, step)

    def _divide(self, comparisons: Sequence[Comparison]) -> tuple[list[Comparison], list[int]]:
        parts = [chunks(c, self.max_tokens) for c in comparisons]
        owners = [i for i, part in enumerate(parts) for _ in part]
        return [c for part in parts for c in part], owners

    def _packs(self, parts: Sequence[Comparison]) -> list[tuple[Pack, list[Comparison]]]:
        packs: list[list[Comparison]] = []
        room = 0
        for part in parts:
            size = part.group().num_tokens
            if not packs or size > room:
                packs.append([])
                room = self.max_tokens
            packs[-1].append(part)
            room -= size
        packs = self.in_step(packs, [])
        return [(self.pack([c.group() for c in members]), members) for members in packs]

    def _scores(self, pack: Pack, dropout_of: Sequence[Comparison] | None) -> Tensor:
        """Score of every continuation of a pack, [continuations]."""
        allowed = allowed_experts(pack.token_classes, self.settings)

        def run(model: DiscriminatorModel) -> Tensor:
            model.routing.start(allowed, pack.num_tokens)
            hidden = hidden_states(model.tower, pack).index_select(0, pack.last_index).float()
            if dropout_of and self.settings.head_dropout:
                hidden = hidden * self._dropout_mask(dropout_of, hidden.shape[1]).to(hidden.device)
            scores: Tensor = model.head(hidden)
            return scores

        return self.sharding.run(run).squeeze(1)

    def _dropout_mask(self, members: Sequence[Comparison], width: int) -> Tensor:
        """Inverted dropout, keyed per prompt so that it does not depend on packing or ranks.

        A student's row is the same however the comparison is divided, and so is its teacher's.
        """
        rate = self.settings.head_dropout
        masks = []
        for member in members:
            generator = torch.Generator().manual_seed(member.dropout_seed)
            first = 2 * (1 + member.students_before)
            rows = first + 2 * len(member.students)
            draws = torch.rand(rows, width, generator=generator)
            masks.append(torch.cat([draws[:2], draws[first:]]) >= rate)
        return torch.cat(masks) / (1 - rate)

    def _balance(self, scored: ScoredBatch) -> Tensor:
        probabilities = self.model.routing.probabilities.values()
        layers = zip(probabilities, scored.expert_shares, strict=True)
        losses = [load_balance_loss(p, shares, scored.total_tokens) for p, shares in layers]
        return torch.stack(losses).mean()


def _by_comparison(values: Tensor, members: Sequence[Comparison]) -> list[PairScores]:
    """Teacher first, then students, two scores each."""
    rows = values.view(len(values) // 2, 2).split([1 + len(c.students) for c in members])
    return [PairScores(r[0], r[1:]) for r in rows]


def _merge(scores: list[PairScores], owners: list[int], count: int) -> list[PairScores]:
    """Put the parts of divided comparisons together again."""
    merged = []
    for i in range(count):
        parts = [s for s, owner in zip(scores, owners, strict=True) if owner == i]
        merged.append(PairScores(parts[0].teacher, torch.cat([p.students for p in parts])))
    return merged
