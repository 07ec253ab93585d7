"""The three stages: every published hyper-parameter is a field, its default the published value.

Sources: the paper's hyper-parameter table and the reference code's launch scripts
(arXiv 2604.28123); where the two differ the field says which was taken.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from prism_api.base import Contract, CrossFieldError
from prism_api.gating import Gating
from prism_api.optimization import Optimization
from prism_api.reinforcement import Algorithm, KlEstimator, Overlong, RolloutCorrection
from prism_api.resources import (
    Count,
    DataSource,
    Fraction,
    LearningRate,
    ModelSource,
    NonNegative,
    Positive,
    Rollout,
    Saving,
    Workers,
)

GroupSize = Annotated[int, Field(ge=2, le=1024)]
Temperature = Annotated[float, Field(gt=0, le=10)]


LoraModule = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Lora(Contract):
    """Low-rank adapters: W + alpha / rank x B A, of which A and B are trained (arXiv
    2106.09685)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rows of A."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Strength."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the adapters' inputs, in updates only."""
    target_modules: Annotated[tuple[LoraModule, ...], Field(min_length=1, max_length=7)] = get_args(
        LoraModule
    )
    """Linear layers of the language model that get one; absent: all. A mixture of experts has only
    the first four."""


class Stage(Optimization):
    """What all stages share."""

    batch_size: Positive
    """Samples (SFT) or prompts (align, rlvr) of one optimizer step, over all processes."""
    max_prompt_tokens: Positive = 2048
    """Image tokens included. Longer prompts are left out of their batch and counted (metric
    dropped_samples); a batch without any other is refused."""
    max_response_tokens: Positive
    """SFT leaves longer demonstrations out, as with prompts; sampling stops there."""
    max_tokens_per_pack: Positive
    """Tokens of one packed forward; longer batches are split into several (micro-batches)."""
    train_vision_tower: bool = True
    """Whether the vision tower and its projector are trained, in full also beside adapters. With
    `lora` the default is false."""
    lora: Lora | None = None
    """Train low-rank adapters in place of the language model's own weights; results are exported
    merged."""
    gradient_checkpointing: Saving = "auto"
    """Whether the policy's layers recompute their activations in the backward pass."""
    checkpoint_every_steps: Positive
    """Steps between checkpoints; the last step always makes one."""
    workers: Workers | None = None
    """Instead of spec.workers."""

    @model_validator(mode="after")
    def _adapters_alone(self) -> Self:
        if self.lora is not None and "train_vision_tower" not in self.model_fields_set:
            object.__setattr__(self, "train_vision_tower", False)
        return self


class SftStage(Stage):
    """Supervised fine-tuning on demonstrations (paper, stage 1)."""

    data: Annotated[tuple[DataSource, ...], Field(min_length=1, max_length=1024)]
    """Demonstrations; all sources are shuffled together."""
    epochs: Positive | None = None
    """Passes over the data; published: 1, the default when `steps` is absent too."""
    steps: Positive | None = None
    """Optimizer steps, instead of epochs."""
    learning_rate: LearningRate = 1e-5
    """Peak learning rate."""
    weight_decay: NonNegative = 0.0
    """Not published; 0 is LLaMA-Factory's default, the tool that the authors used."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After warm-up: constant, or cosine to zero at the last step."""
    warmup_ratio: Fraction | None = 0.1
    """Warm-up as a share of all steps; instead of warmupSteps."""
    batch_size: Positive = 16
    """Published: "global batch 2", which only fits the data as 2 per device on 8 GPUs."""
    max_response_tokens: Positive = 8192
    """Longer demonstrations are left out of their batch and counted (metric dropped_samples)."""
    max_tokens_per_pack: Positive = 10240
    """Tokens of one packed forward; not published for SFT."""
    train_vision_tower: bool = False
    """Published: language model trained, vision tower and projector frozen."""
    checkpoint_every_steps: Positive = 500
    """Steps between checkpoints; not published for SFT."""

    @model_validator(mode="after")
    def _one_length(self) -> "SftStage":
        if self.epochs is not None and self.steps is not None:
            raise CrossFieldError("steps", "is given together with epochs", "give one of the two")
        return self


class Sampling(Stage):
    """What the stages share that learn from the policy's own responses."""

    steps: Positive
    """Optimizer steps; one batch of prompts each."""
    data: DataSource
    """Prompts, with what the stage needs beside them."""
    rollouts_per_prompt: GroupSize = 16
    """Responses sampled per prompt: the group of the group-relative advantage."""
    temperature: Temperature = 1.0
    """Sampling temperature."""
    kl_coef: NonNegative = 0.0
    """Weight of the estimated KL(policy, stage's initial policy); published: off. With 0 the
    initial policy is not even loaded."""
    kl_estimator: KlEstimator = "k3"
    """Of the log-ratio d = log policy - log initial: `k1` d, whose gradient is zero in expectation,
    `k2` d^2 / 2, whose gradient is that of the divergence, `k3` e^-d + d - 1, never negative."""
    entropy_coef: NonNegative = 0.0
    """Weight of the entropy bonus; published: off."""
    rollout: Rollout | None = None
    """Instead of spec.rollout."""
    rollout_correction: RolloutCorrection | None = None
    """Importance weights of sampled tokens; null: none. Absent: as its defaults say for `vllm`,
    none for `inprocess`, whose log-probabilities are the trainer's."""


class Warmup(Optimization):
    """Warm-up of the discriminator on teacher and student pairs before the game starts."""

    data: DataSource | None = None
    """Teacher and student pairs; absent: students are sampled from the policy that SFT left."""
    steps: Count | None = None
    """Optimizer steps; absent: one pass over the pairs (published), or over the alignment data."""
    batch_size: Positive = 64
    """Students of one step, each with its teacher: a caption pair and a reasoning pair (published:
    4 x 4 accumulation steps x 8 GPUs = 128 of these, from 64 lines)."""
    learning_rate: LearningRate = 1e-5
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After warm-up: constant, or cosine to zero at the last step."""
    warmup_ratio: Fraction | None = 0.1
    """Learning-rate warm-up as a share of all steps; instead of warmupSteps."""


class Discriminator(Optimization):
    """The mixture-of-experts discriminator (paper, section on alignment; reference
    `dp_critic.py`)."""

    model: ModelSource | None = None
    """Dense model to upcycle, or a Qwen3-VL-MoE; absent: what SFT left is upcycled."""
    routing: Literal["learned", "segment"] = "learned"
    """`learned`: the router chooses among all experts for each token (reference code).
    `segment`: caption tokens choose among the perception experts (first half), think and answer
    tokens among the reasoning experts (what the paper describes); prompt tokens, which both
    scores read, choose among all."""
    num_experts: Annotated[int, Field(ge=2, le=64)] = 4
    """Experts per layer."""
    experts_per_token: Positive = 2
    """Experts that process one token."""
    expert_noise_std: NonNegative = 0.01
    """Standard deviation of the noise added to each copied expert weight."""
    router_init_std: NonNegative = 0.02
    """Standard deviation of the initial router and score-head weights."""
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout before the score head, in updates only."""
    score_clip: NonNegative = 10.0
    """Scores are clamped to this absolute value in the loss; 0 turns it off."""
    score_reg_coef: NonNegative = 0.001
    """Weight of the mean squared score."""
    fallback_coef: NonNegative = 0.01
    """Weight of the teacher-only loss of a step in which no student response has the format."""
    gradient_checkpointing: Saving = "auto"
    """Whether the discriminator's layers recompute their activations in the backward pass."""
    load_balance_coef: NonNegative = 0.01
    """Weight of the experts' load-balancing loss (published for the warm-up; here in both
    phases)."""
    warmup: Warmup = Warmup()
    """Warm-up before the game."""

    @model_validator(mode="after")
    def _experts_fit(self) -> "Discriminator":
        available = self.num_experts
        if self.routing == "segment":
            if self.num_experts % 2:
                raise CrossFieldError(
                    "numExperts",
                    f"{self.num_experts} experts cannot be halved for segment routing",
                    "give an even number",
                )
            available //= 2
        if self.experts_per_token > available:
            raise CrossFieldError(
                "expertsPerToken",
                f"{self.experts_per_token} of {available} available experts per token",
                f"give at most {available}",
            )
        return self


class AlignStage(Sampling):
    """Alignment by black-box on-policy distillation against the discriminator (paper, stage 2)."""

    objective: Literal["adversarial", "supervised"] = "adversarial"
    """`adversarial`: the method. `supervised`: cross-entropy on the same teacher texts for as many
    updates, without a discriminator; the control that shows what the game adds."""
    discriminator: Discriminator = Discriminator()
    """The opponent."""
    data: DataSource
    """Prompts with the teacher's caption, reasoning and answer."""
    steps: Positive = 500
    """Optimizer steps of the game (published: 500; the reference script says 1500)."""
    batch_size: Positive = 4
    """Prompts of one step."""
    max_response_tokens: Positive = 6144
    """Sampling stops here."""
    max_tokens_per_pack: Positive = 8192
    """Tokens of one packed forward, of policy and discriminator."""
    checkpoint_every_steps: Positive = 100
    """Steps between checkpoints; those of the warm-up count too (published: 500, only the end)."""
    caption_weight: NonNegative = 0.5
    """Weight of the perception score in the advantage (alpha)."""
    reasoning_weight: NonNegative = 0.5
    """Weight of the reasoning score in the advantage (1 - alpha)."""
    format_penalty: NonNegative = 1.5
    """Subtracted from the advantage of a response without the three blocks."""
    offload_optimizer: Saving = "auto"
    """Whether the optimizer states of policy and discriminator lie in host memory, and on the GPU
    only while they are stepped."""
    advantage: Literal["per_component", "mixed"] = "per_component"
    """`per_component`: scores are normalised within the group, then mixed (reference code);
    `mixed`: mixed, then normalised (paper, equations 1-3)."""
    gating: Gating | None = None
    """Makes the advantage depend on whether the answer is right; `data` then needs gold answers.
    Absent (published): answers are not looked at."""

    @model_validator(mode="after")
    def _gates_the_game(self) -> "AlignStage":
        if self.gating is not None and self.objective == "supervised":
            raise CrossFieldError(
                "gating",
                "has no meaning with objective supervised, which samples no answers",
                "remove it, or set objective: adversarial",
            )
        return self

    @model_validator(mode="after")
    def _some_reward(self) -> "AlignStage":
        if self.caption_weight + self.reasoning_weight == 0:
            raise CrossFieldError(
                "captionWeight",
                "captionWeight and reasoningWeight are both 0",
                "give at least one of them a weight",
            )
        return self


class RlvrStage(Sampling):
    """Reinforcement learning with verifiable rewards (paper, stage 3)."""

    algorithm: Algorithm = "grpo"
    """Sets the defaults of the fields below that are absent; `prism plan` shows them resolved."""
    data: DataSource
    """Prompts with the right answer."""
    steps: Positive = 1500
    """Batches of rollouts; each gives miniBatches optimizer steps."""
    batch_size: Positive = 32
    """Prompts of one step."""
    max_response_tokens: Positive = 8192
    """Sampling stops here."""
    max_tokens_per_pack: Positive = 20480
    """Tokens of one packed forward. GSPO 20480, the others 10240."""
    checkpoint_every_steps: Positive = 120
    """Steps between checkpoints."""
    accuracy_weight: Annotated[float, Field(gt=0)] = 0.8
    """Reward of a right answer in the right format; with 0 nothing would be verified."""
    format_weight: NonNegative = 0.2
    """Reward of the right format."""
    mini_batches: Positive = 1
    """Optimizer steps per batch of rollouts; with 1 (published) every ratio is 1 and no clip acts,
    but on what dynamic sampling has left over from the step before (if that is not corrected)."""
    clip_low: Annotated[float, Field(gt=0, le=1)] | None = None
    """Ratios below 1 - clipLow are clipped; 1: none is. GRPO, DAPO and Dr.GRPO 0.2, GSPO 3e-4,
    CISPO 1."""
    clip_high: Annotated[float, Field(gt=0)] | None = None
    """Ratios above 1 + clipHigh are clipped. GRPO and Dr.GRPO 0.2, DAPO 0.28, GSPO 4e-4, CISPO
    4."""
    dual_clip: NonNegative | None = None
    """A token's loss is at most this many times its negative advantage; 0 turns it off. GRPO 3,
    DAPO 10, the others 0."""
    dynamic_sampling: bool | None = None
    """Whether groups whose answers are all right or all wrong are replaced by further ones; what
    is left over, up to one batch, is trained in the next step. DAPO: true."""
    max_generation_rounds: Positive = 10
    """Dynamic sampling gives up after so many rounds in one step."""
    generation_batch_size: Positive | None = None
    """Prompts of one round of dynamic sampling. DAPO: 3 x batchSize."""
    overlong: Overlong | None = None
    """Length penalty. DAPO: on, its buffer at most half of maxResponseTokens; null turns it off."""

    @model_validator(mode="after")
    def _consistent(self) -> "RlvrStage":
        if self.batch_size % self.mini_batches:
            raise CrossFieldError(
                "miniBatches",
                f"{self.mini_batches} does not divide batchSize {self.batch_size}",
                "give a divisor of batchSize",
            )
        if self.algorithm == "cispo" and self.dual_clip:
            raise CrossFieldError(
                "dualClip", "has no meaning for cispo, which clips weights, not losses", "remove it"
            )
        if self.generation_batch_size is not None and not self.samples_dynamically:
            raise CrossFieldError(
                "generationBatchSize",
                "has no meaning without dynamic sampling",
                "remove it, or set dynamicSampling: true",
            )
        if self.overlong and self.overlong.buffer_tokens > self.max_response_tokens:
            raise CrossFieldError(
                "overlong",
                f"bufferTokens {self.overlong.buffer_tokens} exceeds maxResponseTokens",
                f"give at most {self.max_response_tokens}",
            )
        return self

    @property
    def samples_dynamically(self) -> bool:
        """Whether dynamic sampling is on, by field or by algorithm."""
        on = self.dynamic_sampling
        return self.algorithm == "dapo" if on is None else on


class Stages(Contract):
    """The stages of a run, in the fixed order sft, align, rlvr; an absent one is skipped."""

    sft: SftStage | None = None
    """Supervised fine-tuning."""
    align: AlignStage | None = None
    """Alignment against the discriminator."""
    rlvr: RlvrStage | None = None
    """Reinforcement learning with verifiable rewards."""

    @model_validator(mode="after")
    def _at_least_one(self) -> "Stages":
        if not (self.sft or self.align or self.rlvr):
            raise CrossFieldError("", "has no stage", "give at least one of sft, align, rlvr")
        return self
