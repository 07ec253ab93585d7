"""The discriminator at work: scores for rewards, and one optimizer step against the policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prism_api import stages
from prism_api.resources import Engine, Precision
from prism_trainer.discriminator.comparison import Comparison, chunks, packed_text_numbers
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
        precision: Precision,
        max_tokens: int,
        engine: Engine = "replicated",
    ) -> None:
        super().__init__(model, ranks, precision, max_tokens, engine)
        self.settings = settings

    @property
    def _config(self) -> Any:
        return self.model.tower.config

    def score(self, comparisons: Sequence[Comparison]) -> ScoredBatch:
        """Scores without dropout and without gradient.

        Prompt, image and every text of a comparison are encoded once, so that equal texts have
        exactly the same score.
        """
        parts, owners = self._divide(comparisons)
        scores: list[PairScores] = []
        layers = len(self.model.tower.language_model.layers)
        counts = torch.zeros(layers, self.settings.num_experts, dtype=torch.float64)
        tokens = 0.0
        with torch.no_grad(), self.autocast():
            for pack, members in self._packs(parts):
                scores += _by_comparison(self._scores(pack, members, dropout=False), members)
                weights = _token_weights(pack, members)
                counts += self.model.routing.choice_counts(weights).cpu()
                tokens += float(weights.sum())
        (total_tokens,) = self.ranks.sum_floats(tokens)
        shares = self.ranks.sum_(counts.to(self.ranks.device)) / total_tokens
        return ScoredBatch(_merge(scores, owners, comparisons), shares, total_tokens)

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
            values = self._scores(pack, members, dropout=True)
            losses = [
                pair_loss(s, pairs, prompts, self.settings) for s in _by_comparison(values, members)
            ]
            pairs_loss = torch.stack(losses).sum() if losses else values.sum()
            balance = self._balance(scored, _token_weights(pack, members))
            return pairs_loss + coefficient * balance

        return self.update([pack for pack, _ in packed], loss_of, step)

    def _divide(self, comparisons: Sequence[Comparison]) -> tuple[list[Comparison], list[int]]:
        parts = [chunks(c, self.max_tokens) for c in comparisons]
        owners = [i for i, part in enumerate(parts) for _ in part]
        return [c for part in parts for c in part], owners

    def _packs(self, parts: Sequence[Comparison]) -> list[tuple[Pack, list[Comparison]]]:
        packs: list[list[Comparison]] = []
        room = 0
        for part in parts:
            size = part.group.num_tokens
            if not packs or size > room:
                packs.append([])
                room = self.max_tokens
            packs[-1].append(part)
            room -= size
        packs = self.in_step(packs, [])
        return [(self.pack([c.group for c in members]), members) for members in packs]

    def _scores(self, pack: Pack, members: Sequence[Comparison], dropout: bool) -> Tensor:
        """Score of every segment of a pack's comparisons, [segments]; equal texts are read once."""
        allowed = allowed_experts(pack.token_classes, self.settings)
        numbers = torch.from_numpy(packed_text_numbers(members)).to(pack.input_ids.device)

        def run(model: DiscriminatorModel) -> Tensor:
            model.routing.start(allowed, pack.num_tokens)
            hidden = hidden_states(model.tower, pack).index_select(0, pack.last_index)
            if dropout and members and self.settings.head_dropout:
                mask = self._dropout_mask(members, hidden.shape[1]).to(hidden.device)
                dropped: Tensor = model.head(hidden.index_select(0, numbers) * mask)
                return dropped
            scores: Tensor = model.head(hidden)
            return scores.index_select(0, numbers)

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

    def _balance(self, scored: ScoredBatch, weights: Tensor) -> Tensor:
        probabilities = self.model.routing.probabilities.values()
        layers = zip(probabilities, scored.expert_shares, strict=True)
        losses = [
            load_balance_loss(p * weights[:, None], shares, scored.total_tokens)
            for p, shares in layers
        ]
        return torch.stack(losses).mean()


def _token_weights(pack: Pack, members: Sequence[Comparison]) -> Tensor:
    """[tokens] how many tokens each token of a pack's comparisons stands for."""
    nothing = np.empty(0, np.int64)
    weights = np.concatenate([nothing, *(member.token_weights for member in members)])
    return torch.from_numpy(weights).to(pack.input_ids.device)


def _by_comparison(values: Tensor, members: Sequence[Comparison]) -> list[PairScores]:
    """Teacher first, then students, two scores each."""
    rows = values.view(len(values) // 2, 2).split([1 + len(c.students) for c in members])
    return [PairScores(r[0], r[1:]) for r in rows]


def _merge(
    scores: Sequence[PairScores], owners: Sequence[int], comparisons: Sequence[Comparison]
) -> list[PairScores]:
    """Put the parts of divided comparisons together again."""
    merged = []
    for i, comparison in enumerate(comparisons):
        parts = [s for s, owner in zip(scores, owners, strict=True) if owner == i]
        rows = torch.cat([parts[0].teacher[None], *(p.students for p in parts)])
        # A text that occurs in several parts has several scores, equal but for rounding.
        first = torch.from_numpy(comparison.first_uses[comparison.text_numbers])
        rows = rows.flatten()[first.to(rows.device)]
        merged.append(PairScores(rows[0], rows[1:]))
    return merged
