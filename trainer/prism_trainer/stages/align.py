"""Stage 2: alignment by black-box on-policy distillation against a mixture-of-experts
discriminator.

The verifier is not imported here: alignment sees teacher texts, never whether an answer is right.
One iteration: sample, score with the discriminator, step the discriminator, step the policy on the
advantages of the scores before that step (reference code, one update each).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prism_api.stages import AlignStage
from prism_trainer.advantages import alignment_advantages
from prism_trainer.data.rows import Dataset, Row
from prism_trainer.discriminator.comparison import Comparison, Segments
from prism_trainer.discriminator.discriminator import Discriminator, ScoredBatch
from prism_trainer.discriminator.model import upcycle
from prism_trainer.engine.packing import Group
from prism_trainer.engine.sharding import checkpoint_layers
from prism_trainer.losses.policy import ON_POLICY
from prism_trainer.models import load_policy
from prism_trainer.rewards.response import Response, parse_response
from prism_trainer.seeds import derive_seed
from prism_trainer.stages.program import Metrics, Phase, Sources, StageContext, Stateless, Tensors
from prism_trainer.stages.sampling import (
    PolicyUpdate,
    PromptSource,
    SampledGroup,
    response_metrics,
)
from prism_trainer.stages.sft import supervised_update

Parsed = list[Response | None]


class AlignProgram(Stateless):
    """Warm-up of the discriminator, then the game."""

    def __init__(self, context: StageContext, settings: AlignStage) -> None:
        self._context, self._settings = context, settings
        self._source = PromptSource(context, settings, Dataset([settings.data], "teacher"))
        context.policy.start_training(settings, settings.steps)
        self._update = PolicyUpdate(context, settings, ON_POLICY)
        warmup = settings.discriminator.warmup
        default_steps = max(1, len(self._source.data) // warmup.batch_size)
        self._warmup_steps = default_steps if warmup.steps is None else warmup.steps
        self.phases = (Phase("warmup", self._warmup_steps), Phase("train", settings.steps))
        self._discriminator = self._build_discriminator()
        self._phase = ""

    def _build_discriminator(self) -> Discriminator:
        settings, context = self._settings.discriminator, self._context
        uri = settings.model.uri if settings.model else context.initial_model
        dense = load_policy(uri, True, torch.device("cpu")).model
        model = upcycle(dense, settings, context.config.seed).to(context.ranks.device).train()
        if context.savings.recompute_discriminator:
            checkpoint_layers(model)
        workers, max_tokens = context.config.workers, self._settings.max_tokens_per_pack
        discriminator = Discriminator(
            model, settings, context.ranks, workers.precision, max_tokens, workers.engine
        )
        discriminator.offload_optimizer = context.savings.offload_optimizer
        return discriminator

    def _enter(self, phase: str) -> None:
        """Warm-up and game have an optimizer each, of which only the current one is kept."""
        if phase == self._phase:
            return
        settings, network = self._settings.discriminator, self._discriminator
        steps = {"warmup": self._warmup_steps, "train": self._settings.steps}[phase]
        chosen = settings.warmup if phase == "warmup" else settings
        network.start_training(chosen, steps)
        self._phase = phase

    def iterate(self, phase: str, step: int) -> Metrics:
        """One step of the warm-up, or of the game."""
        self._enter(phase)
        return self._warm_up(step) if phase == "warmup" else self._play(step)

    def _warm_up(self, step: int) -> Metrics:
        """The discriminator learns to tell teacher from the policy that SFT left."""
        size = self._settings.discriminator.warmup.batch_size
        rows = self._source.rows("warmup", step * size, size)
        groups = self._source.sample(rows, 1, ("align", "warmup", step))
        parsed = [[parse_response(text) for text in group.texts] for group in groups]
        _, metrics = self._train_discriminator(groups, parsed, ("warmup", step), step)
        return metrics | response_metrics(self._context, groups)

    def _play(self, step: int) -> Metrics:
        settings = self._settings
        rows = self._source.rows("align", step * settings.batch_size, settings.batch_size)
        groups = self._source.sample(rows, settings.rollouts_per_prompt, ("align", "train", step))
        parsed = [[parse_response(text) for text in group.texts] for group in groups]
        scored, metrics = self._train_discriminator(groups, parsed, ("train", step), step)
        scores, valid = _score_table(scored, parsed)
        advantages = alignment_advantages(
            scores,
            valid,
            (settings.caption_weight, settings.reasoning_weight),
            settings.format_penalty,
            settings.advantage,
        )
        report = self._update.run(groups, list(advantages), step)
        return metrics | {
            "loss": report.step.loss,
            "reward": metrics["student_score"],
            "entropy": report.entropy,
            "kl": report.kl,
            "grad_norm": report.step.grad_norm,
            "learning_rate": report.step.learning_rate,
            "tokens": float(report.step.num_tokens),
            **response_metrics(self._context, groups),
        }

    def _train_discriminator(
        self,
        groups: Sequence[SampledGroup],
        parsed: Sequence[Parsed],
        key: tuple[str, int],
        step: int,
    ) -> tuple[ScoredBatch, Metrics]:
        """Score first, then step: the rewards come from the discriminator before its update."""
        comparisons = [self._comparison(g, p, key) for g, p in zip(groups, parsed, strict=True)]
        scored = self._discriminator.score(comparisons)
        report = self._discriminator.train_on(comparisons, scored, step)
        metrics = self._discriminator_metrics(scored, parsed, groups)
        return scored, metrics | {
            "discriminator_loss": report.loss,
            "discriminator_grad_norm": report.grad_norm,
        }

    def _comparison(self, group: SampledGroup, parsed: Parsed, key: tuple[str, int]) -> Comparison:
        seed = derive_seed(self._context.config.seed, "dropout", *key, group.row_index)
        students = tuple(
            self._segments(r.caption_segment, r.reasoning_segment) for r in parsed if r is not None
        )
        return Comparison(group.prompt, self._segments(*_teacher(group.row)), students, seed)

    def _segments(self, caption: str, reasoning: str) -> Segments:
        encoder = self._context.encoder
        return encoder.response(caption), encoder.response(reasoning)

    def _discriminator_metrics(
        self, scored: ScoredBatch, parsed: Sequence[Parsed], groups: Sequence[SampledGroup]
    ) -> Metrics:
        same = torch.cat([_identical(g.row, p) for g, p in zip(groups, parsed, strict=True)])
        gaps = torch.cat([(s.teacher - s.students).double().cpu() for s in scored.scores])
        # The same text has the same score; what rounding makes of it decides nothing.
        gaps = gaps.masked_fill(same, 0.0)
        students = torch.cat([s.students.double().cpu() for s in scored.scores])
        right = (gaps > 0).double() + 0.5 * (gaps == 0).double()
        pairs, gap_caption, gap_reasoning, right_caption, right_reasoning, score, alike, count = (
            self._context.ranks.sum_floats(
                float(len(gaps)),
                *gaps.sum(0).tolist(),
                *right.sum(0).tolist(),
                float(students.sum()),
                float(same.sum()),
                float(sum(len(p) for p in parsed)),
            )
        )
        divisor = max(1.0, pairs)
        return {
            "discriminator_gap_caption": gap_caption / divisor,
            "discriminator_gap_reasoning": gap_reasoning / divisor,
            "discriminator_accuracy_caption": right_caption / divisor,
            "discriminator_accuracy_reasoning": right_reasoning / divisor,
            "student_score": score / divisor,
            "identical_segments": alike / (2 * divisor),
            "format_rate": pairs / count,
            "expert_load_max": float(_relative_load(scored.expert_shares).max()),
        }

    def tensors(self) -> Sources:
        """Weights and current optimizer of the discriminator."""
        network = self._discriminator
        optimizer = network.optimizer.state() if network.optimizer else {}
        return {"discriminator": network.weights(), "discriminator-optimizer": optimizer}

    def load_tensors(self, tensors: Tensors) -> None:
        """Restore what `tensors` gave; the phase must be known."""
        network = self._discriminator
        network.load_weights(tensors["discriminator"])
        if network.optimizer is not None:
            network.optimizer.load_state(tensors["discriminator-optimizer"])

    def facts(self) -> dict[str, Any]:
        """The phase whose optimizer is kept."""
        return {"phase": self._phase}

    def load_facts(self, facts: dict[str, Any]) -> None:
        """Restore what `facts` gave."""
        if facts["phase"]:
            self._enter(facts["phase"])


class SupervisedAlignProgram(Stateless):
    """The control: cross-entropy on the same teacher texts, as many updates, no discriminator."""

    def __init__(self, context: StageContext, settings: AlignStage) -> None:
        self._context, self._settings = context, settings
        self._source = PromptSource(context, settings, Dataset([settings.data], "teacher"))
        self.phases = (Phase("train", settings.steps),)
        context.policy.start_training(settings, settings.steps)

    def iterate(self, phase: str, step: int) -> Metrics:
        """One optimizer step on the teacher texts that the game would have used."""
        size = self._settings.batch_size
        rows = [self._source.data[i] for i in self._source.rows("align", step * size, size)]
        encoder = self._context.encoder
        texts = [encoder.response(row.response or "") for row in rows]
        groups = [Group(p, (t,)) for p, t in zip(encoder.prompts(rows), texts, strict=True)]
        report, loss = supervised_update(self._context, groups, step)
        return {
            "loss": loss,
            "grad_norm": report.grad_norm,
            "learning_rate": report.learning_rate,
            "tokens": float(report.num_tokens),
        }


def _teacher(row: Row) -> tuple[str, str]:
    assert row.teacher_caption is not None, "the data set was checked for teachers"
    assert row.teacher_reasoning is not None, "the data set was checked for teachers"
    return row.teacher_caption.strip(), row.teacher_reasoning.strip()


def _identical(row: Row, parsed: Parsed) -> Tensor:
    """Which segments of the responses in the format are the teacher's, [responses, 2]."""
    caption, reasoning = _teacher(row)
    pairs = [
        (r.caption_segment == caption, r.reasoning_segment == reasoning)
        for r in parsed
        if r is not None
    ]
    return torch.tensor(pairs, dtype=torch.bool).reshape(-1, 2)


def _score_table(scored: ScoredBatch, parsed: Sequence[Parsed]) -> tuple[Tensor, Tensor]:
    """Scores [groups, responses, 2] with 0 for responses without the format, and who has it."""
    valid = torch.tensor([[r is not None for r in group] for group in parsed])
    scores = torch.zeros(*valid.shape, 2, dtype=torch.float64)
    scores[valid] = torch.cat([s.students.double().cpu() for s in scored.scores])
    return scores, valid


def _relative_load(shares: Tensor) -> Tensor:
    """Expert loads relative to an even spread, [layers, experts]."""
    return shares * shares.shape[1] / shares.sum(1, keepdim=True)
