"""Stage 2: alignment by black-box on-policy distillation against a mixture-of-experts
discriminator.

The verifier is not imported here: alignment sees teacher texts, never whether an answer is right,
unless a gating mode is on; then whoever starts the stage hands over how answers are graded.
One iteration: sample, score with the discriminator, step the discriminator, step the policy on the
advantages of the scores before that step (reference code, one update each).
"""

from collections.abc import Sequence
from typing import Any

from prism_api.stages import AlignStage
from prism_trainer.data.rows import Dataset, Need
from prism_trainer.discriminator.comparison import Comparison
from prism_trainer.discriminator.discriminator import Discriminator, ScoredBatch
from prism_trainer.discriminator.layout import OwnTensors, published
from prism_trainer.discriminator.loading import load_discriminator
from prism_trainer.discriminator.metrics import comparison_metrics
from prism_trainer.engine.sharding import checkpoint_layers
from prism_trainer.gating import Grade
from prism_trainer.losses.policy import ON_POLICY
from prism_trainer.record import Usage, Use
from prism_trainer.rewards.response import parse_response
from prism_trainer.seeds import derive_seed
from prism_trainer.stages.align_advantages import (
    Parsed,
    accuracy_metrics,
    batch_advantages,
    graded,
)
from prism_trainer.stages.align_pairs import PairSource, segments
from prism_trainer.stages.policy_update import PolicyUpdate, update_metrics
from prism_trainer.stages.program import (
    Iteration,
    Metrics,
    ModelFiles,
    Phase,
    Sources,
    StageContext,
    Stateless,
    Tensors,
)
from prism_trainer.stages.prompts import PromptSource
from prism_trainer.stages.sampling import SampledGroup, response_metrics, sample

_MODEL, _OPTIMIZER = "discriminator", "discriminator-optimizer"


class AlignProgram(Stateless):
    """Warm-up of the discriminator, then the game."""

    def __init__(
        self, context: StageContext, settings: AlignStage, grade: Grade | None = None
    ) -> None:
        """`grade` comes with a gating mode, and only then."""
        assert (grade is None) == (settings.gating is None), "gating needs grades, and only it"
        self._context, self._settings, self._grade = context, settings, grade
        need: Need = "teacher_truth" if settings.gating else "teacher"
        self._source = PromptSource(context, Dataset([settings.data], need))
        context.policy.start_training(settings, settings.steps)
        self._update = PolicyUpdate(context, settings, ON_POLICY)
        warmup = settings.discriminator.warmup
        self._pairs = PairSource(context, warmup.data) if warmup.data else None
        rows = len(self._pairs or self._source.data)
        one_pass = max(1, rows // warmup.batch_size)
        self._warmup_steps = one_pass if warmup.steps is None else warmup.steps
        warmup_phase = Phase("warmup", self._warmup_steps, policy_steps=0)
        self.phases = (warmup_phase, Phase("train", settings.steps))
        self._discriminator = self._build_discriminator()
        self._phase = ""

    def _build_discriminator(self) -> Discriminator:
        settings, context = self._settings.discriminator, self._context
        uri = settings.model.uri if settings.model else context.initial_model
        model = load_discriminator(uri, settings, context.config.seed)
        model.train()
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
        """The discriminator learns to tell teacher from student: the file's, or the policy that SFT
        left."""
        size = self._settings.discriminator.warmup.batch_size
        if self._pairs is not None:
            uses, comparisons, dropped = self._pairs.batch(step, size)
            _, metrics = self._train_discriminator(comparisons, step)
            return Iteration(
                metrics | {"dropped_samples": dropped}, _usage(step * size, size, uses)
            )
        draws, dropped = self._source.batch("warmup", step * size, size)
        groups = sample(self._context, self._settings, draws, 1, ("align", "warmup", step))
        parsed = [[parse_response(text) for text in group.texts] for group in groups]
        comparisons = self._comparisons(groups, parsed, ("warmup", step))
        _, metrics = self._train_discriminator(comparisons, step)
        metrics |= self._sample_metrics(groups, parsed) | {"dropped_samples": dropped}
        return Iteration(metrics, _usage(step * size, size, [group.use for group in groups]))

    def _play(self, step: int) -> Iteration:
        settings = self._settings
        size, count = settings.batch_size, settings.rollouts_per_prompt
        draws, dropped = self._source.batch("align", step * size, size)
        groups = sample(self._context, settings, draws, count, ("align", "train", step))
        parsed = [[parse_response(text) for text in group.texts] for group in groups]
        answers = None if self._grade is None else graded(groups, parsed, count, self._grade)
        comparisons = self._comparisons(groups, parsed, ("train", step))
        scored, metrics = self._train_discriminator(comparisons, step)
        advantages = batch_advantages(scored, parsed, settings, answers)
        report = self._update.run(groups, list(advantages), step)
        assert report is not None, "a batch without prompts was refused"
        if answers is not None:
            metrics |= accuracy_metrics(self._context.ranks, answers)
        metrics |= update_metrics([report]) | self._sample_metrics(groups, parsed)
        metrics |= {"reward": metrics["student_score"], "dropped_samples": dropped}
        return Iteration(metrics, _usage(step * size, size, [group.use for group in groups]))

    def _train_discriminator(
        self, comparisons: Sequence[Comparison], step: int
    ) -> tuple[ScoredBatch, Metrics]:
        """Score first, then step: the rewards come from the discriminator before its update, and
        its accuracy is one on pairs that it has not learned."""
        scored = self._discriminator.score(comparisons)
        report = self._discriminator.train_on(comparisons, scored, step)
        return scored, comparison_metrics(self._context.ranks, comparisons, scored) | {
            "discriminator_loss": report.loss,
            "discriminator_grad_norm": report.grad_norm,
        }

    def _sample_metrics(self, groups: Sequence[SampledGroup], parsed: Sequence[Parsed]) -> Metrics:
        responses = [response is not None for group in parsed for response in group]
        formed, count = self._context.ranks.sum_floats(float(sum(responses)), float(len(responses)))
        return response_metrics(self._context, groups) | {"format_rate": formed / count}

    def _comparisons(
        self, groups: Sequence[SampledGroup], parsed: Sequence[Parsed], key: tuple[str, int]
    ) -> list[Comparison]:
        return [self._comparison(g, p, key) for g, p in zip(groups, parsed, strict=True)]

    def _comparison(self, group: SampledGroup, parsed: Parsed, key: tuple[str, int]) -> Comparison:
        draw, encoder = group.draw, self._context.encoder
        seed = derive_seed(self._context.config.seed, "dropout", *key, draw.key)
        students = tuple(
            (encoder.response(r.caption_segment), encoder.response(r.reasoning_segment))
            for r in parsed
            if r is not None
        )
        teacher = segments(encoder, draw.row.teacher_caption, draw.row.teacher_reasoning)
        return Comparison(draw.prompt, teacher, students, seed)

    def tensors(self) -> Sources:
        """The current optimizer of the discriminator."""
        optimizer = self._discriminator.optimizer
        return {_OPTIMIZER: optimizer.state() if optimizer else {}}

    def models(self) -> dict[str, ModelFiles]:
        """The discriminator, as transformers loads it."""
        network = self._discriminator
        return {_MODEL: ModelFiles(network.model.tower.config, published(network.weights()))}

    def load_tensors(self, tensors: Tensors) -> None:
        """Restore what `tensors` and `models` gave; the phase must be known."""
        network = self._discriminator
        network.load_weights(OwnTensors(tensors[_MODEL]))
        if network.optimizer is not None:
            network.optimizer.load_state(tensors[_OPTIMIZER])

    def facts(self) -> dict[str, Any]:
        """The phase whose optimizer is kept."""
        return {"phase": self._phase}

    def load_facts(self, facts: dict[str, Any]) -> None:
        """Restore what `facts` gave."""
        if facts["phase"]:
            self._enter(facts["phase"])


def _usage(first: int, size: int, uses: Sequence[Use]) -> Usage:
    """Everything that is drawn is trained on in the same step."""
    return Usage(range(first, first + size), uses, [uses])
