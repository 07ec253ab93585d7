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
from prism_trainer.discriminator.metrics import comparison_metrics
from prism_trainer.discriminator.model import upcycle
from prism_trainer.engine.sharding import checkpoint_layers
from prism_trainer.losses.policy import ON_POLICY
from prism_trainer.models import load_policy
from prism_trainer.record import Usage
from prism_trainer.rewards.response import Response, parse_response
from prism_trainer.seeds import derive_seed
from prism_trainer.stages.policy_update import PolicyUpdate, update_metrics
from prism_trainer.stages.program import (
    Iteration,
    Metrics,
    Phase,
    Sources,
    StageContext,
    Stateless,
    Tensors,
)
from prism_trainer.stages.prompts import PromptSource
from prism_trainer.stages.sampling import SampledGroup, response_metrics, sample

Parsed = list[Response | None]


class AlignProgram(Stateless):
    """Warm-up of the discriminator, then the game."""

    def __init__(self, context: StageContext, settings: AlignStage) -> None:
        self._context, self._settings = context, settings
        self._source = PromptSource(context, Dataset([settings.data], "teacher"))
        context.policy.start_training(settings, settings.steps)
        self._update = PolicyUpdate(context, settings, ON_POLICY)
        warmup = settings.discriminator.warmup
        default_steps = max(1, len(self._source.data) // warmup.batch_size)
        self._warmup_steps = default_steps if warmup.steps is None else warmup.steps
        warmup_phase = Phase("warmup", self._warmup_steps, policy_steps=0)
        self.phases = (warmup_phase, Phase("train", settings.steps))
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

    def iterate(self, phase: str, step: int) -> Iteration:
        """One step of the warm-up, or of the game."""
        self._enter(phase)
        return self._warm_up(step) if phase == "warmup" else self._play(step)

    def _warm_up(self, step: int) -> Iteration:
        """The discriminator learns to tell teacher from the policy that SFT left."""
        size = self._settings.discriminator.warmup.batch_size
        draws, dropped = self._source.batch("warmup", step * size, size)
        groups = sample(self._context, self._settings, draws, 1, ("align", "warmup", step))
        parsed = [[parse_response(text) for text in group.texts] for group in groups]
        _, metrics = self._train_discriminator(groups, parsed, ("warmup", step), step)
        metrics |= response_metrics(self._context, groups) | {"dropped_samples": dropped}
        return Iteration(metrics, _usage(step * size, size, groups))

    def _play(self, step: int) -> Iteration:
        settings = self._settings
        size, count = settings.batch_size, settings.rollouts_per_prompt
        draws, dropped = self._source.batch("align", step * size, size)
        groups = sample(self._context, settings, draws, count, ("align", "train", step))
        parsed = [[parse_response(text) for text in group.texts] for group in groups]
        scored, metrics = self._train_discriminator(groups, parsed, ("train", step), step)
        scores, valid = _score_table(scored, parsed, count)
        advantages = alignment_advantages(
            scores,
            valid,
            (settings.caption_weight, settings.reasoning_weight),
            settings.format_penalty,
            settings.advantage,
        )
        report = self._update.run(groups, list(advantages), step)
        assert report is not None, "a batch without prompts was refused"
        metrics |= update_metrics([report]) | response_metrics(self._context, groups)
        metrics |= {"reward": metrics["student_score"], "dropped_samples": dropped}
        return Iteration(metrics, _usage(step * size, size, groups))

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
        responses = sum(len(group.completions) for group in groups)
        return scored, comparison_metrics(self._context.ranks, comparisons, scored, responses) | {
            "discriminator_loss": report.loss,
            "discriminator_grad_norm": report.grad_norm,
        }

    def _comparison(self, group: SampledGroup, parsed: Parsed, key: tuple[str, int]) -> Comparison:
        seed = derive_seed(self._context.config.seed, "dropout", *key, group.draw.key)
        students = tuple(
            self._segments(r.caption_segment, r.reasoning_segment) for r in parsed if r is not None
        )
        teacher = self._segments(*_teacher(group.draw.row))
        return Comparison(group.draw.prompt, teacher, students, seed)

    def _segments(self, caption: str, reasoning: str) -> Segments:
        encoder = self._context.encoder
        return encoder.response(caption), encoder.response(reasoning)

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


def _usage(first: int, size: int, groups: Sequence[SampledGroup]) -> Usage:
    """Everything that is sampled is trained on in the same step."""
    uses = [group.use for group in groups]
    return Usage(range(first, first + size), uses, [uses])


def _teacher(row: Row) -> tuple[str, str]:
    assert row.teacher_caption is not None, "the data set was checked for teachers"
    assert row.teacher_reasoning is not None, "the data set was checked for teachers"
    return row.teacher_caption.strip(), row.teacher_reasoning.strip()


def _score_table(
    scored: ScoredBatch, parsed: Sequence[Parsed], responses: int
) -> tuple[Tensor, Tensor]:
    """Scores [groups, responses, 2] with 0 for responses without the format, and who has it."""
    has_format = [[r is not None for r in group] for group in parsed]
    valid = torch.tensor(has_format, dtype=torch.bool).reshape(len(parsed), responses)
    scores = torch.zeros(*valid.shape, 2, dtype=torch.float64)
    for i, pairs in enumerate(scored.scores):
        scores[i, valid[i]] = pairs.students.double().cpu()
    return scores, valid
