"""Memory that a stage needs on each GPU, and which savings make it fit; by arithmetic alone.

`prism plan` shows it for the GPUs of the document, the trainer decides by it for its own. Bytes per
parameter: 4 of master weights, 4 of gradients, 8 of AdamW's moments. Activations per token and
layer are what autograd keeps, counted; against peaks that were measured on a GPU without
recomputation (reference code, bfloat16 states): 4B 6.1 MB per token of 6.2, a 2B discriminator of
4 experts 129 GiB of 133.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from prism_api.model_shape import ModelShape
from prism_api.resources import Engine, ResolvedWorkers, Rollout, Saving, engine_in_use
from prism_api.run import AnyStage
from prism_api.stages import AlignStage, SftStage

GIB = 1 << 30
_CONTEXT = 3 * GIB
"""CUDA context, kernels' workspaces, and the chunks of the language-model head."""
_BUCKETS = 4 * GIB
"""In which DeepSpeed collects gradients to reduce them."""
_USABLE = 0.92
"""Share of the memory that can be filled before fragments are in the way."""


@dataclass(frozen=True)
class Savings:
    """What is given up for memory."""

    recompute_policy: bool = False
    recompute_discriminator: bool = False
    offload_optimizer: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """The chosen savings and what they lead to."""

    savings: Savings
    phases: dict[str, int]
    """Bytes on each GPU by what the stage is doing."""
    host_bytes: int
    """Optimizer states in the host's memory, per process; up to a GiB more for each model."""
    loading_bytes: int
    """Host memory, per process, while its largest model is read, before an engine takes it."""
    gpu_bytes: int
    """What there is."""
    rollout_sequences: int | None = None
    """In-process rollouts: sequences whose cache fits at once even if all reach their limit."""

    @property
    def usable_bytes(self) -> int:
        """What of it can be filled."""
        return int(_USABLE * self.gpu_bytes)

    @property
    def fits(self) -> bool:
        """Whether every phase does."""
        return max(self.phases.values()) <= self.usable_bytes


@dataclass(frozen=True)
class _Network:
    """One trained model as it lies on a GPU."""

    shape: ModelShape
    trained: int
    """Parameters that are."""
    recompute: bool
    workers: ResolvedWorkers

    @property
    def engine(self) -> Engine:
        """What holds it."""
        return _engine(self.workers)

    @property
    def _parts(self) -> int:
        return 1 if self.engine == "replicated" else self.workers.world_size

    @property
    def width(self) -> int:
        """Bytes of a number in a pass."""
        return 2 if self.workers.precision == "bf16" else 4

    @property
    def masters(self) -> int:
        """With DeepSpeed, only what is trained has one beside the weights of the passes."""
        weights, engine = self.shape.parameters, self.engine
        if engine == "deepspeed-zero2":
            return self.width * weights + 4 * self.trained // self._parts
        if engine == "deepspeed-zero3":
            return (self.width * weights + 4 * self.trained) // self._parts
        return 4 * weights // self._parts

    @property
    def gradients(self) -> int:
        return 4 * self.trained // self._parts

    @property
    def moments(self) -> int:
        return 8 * self.trained // self._parts

    @property
    def gathered(self) -> int:
        """Whole weights and gradients during a pass: of all that is outside the layers, and of the
        layers in flight."""
        shape = self.shape
        if self.engine == "replicated":
            return shape.parameters * 2 if self.width == 2 else 0
        if self.engine == "deepspeed-zero2":
            return _BUCKETS
        in_flight = shape.outer_parameters + 3 * max(
            shape.layer_parameters, shape.vision.block_parameters
        )
        return in_flight * (2 * self.width + 4)

    def activations(self, tokens: int, patches: int) -> int:
        """Kept from the forward for the backward pass of a pack."""
        s, scale = self.shape, self.width / 2
        layer = 2 * s.hidden + self._layer_bytes if self.recompute else self._layer_bytes
        layers = s.layers * 2 * s.hidden + layer if self.recompute else s.layers * layer
        v = s.vision
        block = 20 * v.hidden + 4 * v.intermediate
        # The mergers keep about as much as a block, and are never recomputed.
        kept = v.depth * 2 * v.hidden + block if self.recompute else v.depth * block
        blocks = kept + block
        return int(scale * (tokens * layers + patches * blocks))

    @property
    def _layer_bytes(self) -> int:
        """Of one token in one layer of the language model, in bfloat16."""
        s = self.shape
        choices = s.experts_per_token
        mlp = 8 * choices * s.intermediate + (4 * choices * s.hidden if s.experts else 0)
        return 16 * s.hidden + mlp + 10 * (s.queries + s.keys)


def _engine(workers: ResolvedWorkers) -> Engine:
    return engine_in_use(workers.engine, workers.precision, workers.world_size)


def plan_memory(
    stage: AnyStage,
    workers: ResolvedWorkers,
    rollout: Rollout | None,
    policy: ModelShape,
    discriminator: ModelShape | None,
    gpu_bytes: int,
) -> MemoryPlan:
    """The cheapest savings that fit, within what the stage allows; the most thrifty ones if none
    does.

    `discriminator` is the dense model that is upcycled, if the stage plays against one.
    """
    opponent, loading = None, 4 * policy.parameters
    if isinstance(stage, AlignStage) and discriminator is not None:
        settings = stage.discriminator
        opponent = discriminator.upcycled(settings.num_experts, settings.experts_per_token)
        # It is made beside the dense model that it is made of.
        source = 0 if discriminator.experts else discriminator.parameters
        loading = max(loading, 4 * (source + opponent.parameters))
    plans = [
        _plan(savings, stage, workers, rollout, policy, opponent, loading, gpu_bytes)
        for savings in _choices(stage, workers, opponent is not None)
    ]
    return next((plan for plan in plans if plan.fits), plans[-1])


def _choices(stage: AnyStage, workers: ResolvedWorkers, adversarial: bool) -> Iterator[Savings]:
    """From the cheapest in time to the dearest: copies over the bus cost less than computing layers
    again."""
    policy = _allowed(stage.gradient_checkpointing)
    opponent = offload = [False]
    if isinstance(stage, AlignStage):
        opponent = _allowed(stage.discriminator.gradient_checkpointing) if adversarial else opponent
        offload = _allowed(stage.offload_optimizer)
        if _engine(workers).startswith("deepspeed"):  # whose states stay where it has put them
            offload = offload[:1]
    for recompute_policy in policy:
        for recompute_discriminator in opponent:
            for offloaded in offload:
                yield Savings(recompute_policy, recompute_discriminator, offloaded)


def _allowed(saving: Saving) -> list[bool]:
    return {"auto": [False, True], "always": [True], "never": [False]}[saving]


def _plan(
    savings: Savings,
    stage: AnyStage,
    workers: ResolvedWorkers,
    rollout: Rollout | None,
    policy_shape: ModelShape,
    opponent_shape: ModelShape | None,
    loading_bytes: int,
    gpu_bytes: int,
) -> MemoryPlan:
    policy = _Network(
        policy_shape, trained_parameters(stage, policy_shape), savings.recompute_policy, workers
    )
    engine = policy.engine
    networks = {"policy": policy}
    if opponent_shape is not None:
        recompute = savings.recompute_discriminator
        networks["discriminator"] = _Network(
            opponent_shape, opponent_shape.parameters, recompute, workers
        )
    offloaded = savings.offload_optimizer
    base = _CONTEXT + sum(n.masters for n in networks.values())
    if not isinstance(stage, SftStage) and stage.kl_coef and not reference_is_within(stage):
        # DeepSpeed shards only what it trains: its reference is whole.
        base += policy.masters if engine == "fsdp2" else 4 * policy_shape.parameters
    resting = 0 if offloaded else sum(n.moments for n in networks.values())
    if engine == "replicated":  # its gradients are one buffer that stays
        resting += sum(n.gradients for n in networks.values())
    tokens = stage.max_tokens_per_pack
    patches = _patches(stage, policy_shape)
    phases: dict[str, int] = {}
    if engine == "deepspeed-zero3":  # each model is there whole before it is in parts
        phases["start"] = base + max(n.width * n.shape.parameters for n in networks.values())
    for name, n in networks.items():
        own = 0 if engine == "replicated" else n.gradients
        passes = n.gathered + n.activations(tokens, patches)
        phases[f"{name} update"] = base + resting + own + passes
        if offloaded:
            phases[f"{name} optimizer step"] = base + resting + own + n.moments
    sequences = None
    if rollout is not None and rollout.backend == "inprocess" and not isinstance(stage, SftStage):
        # The tokens' embedding stays in float32 beside the head.
        whole = policy.width * policy_shape.parameters + 4 * policy_shape.embedding_parameters
        held = base + resting + whole
        each = _cache_bytes(stage, policy)
        room = int(_USABLE * gpu_bytes) - held
        sequences = sequences_that_fit(rollout.batch_size, each, room)
        phases["rollouts"] = held + sequences * each
    host = sum(n.moments for n in networks.values()) if offloaded else 0
    return MemoryPlan(savings, phases, host, loading_bytes, gpu_bytes, sequences)


def _cache_bytes(stage: AnyStage, policy: _Network) -> int:
    """Keys and values of one sequence of the largest length."""
    length = stage.max_prompt_tokens + stage.max_response_tokens
    return length * policy.shape.layers * 2 * policy.width * policy.shape.keys


def sequences_that_fit(wanted: int, bytes_each: int, usable_bytes: int) -> int:
    """`wanted`, halved until that many fit; at least 1.

    Halved rather than divided exactly, so that a little more or less of free memory, as after a
    resume, gives the same batches and so the same bits.
    """
    while wanted > 1 and wanted * bytes_each > usable_bytes:
        wanted //= 2
    return wanted


def reference_is_within(stage: AnyStage) -> bool:
    """Whether the stage's initial policy is the current one without its adapters."""
    return stage.lora is not None and not stage.train_vision_tower


def trained_parameters(stage: AnyStage, shape: ModelShape) -> int:
    """Parameters of the policy that the stage's optimizer holds."""
    tower = shape.vision.parameters
    frozen = 0 if stage.train_vision_tower else tower
    if stage.lora is None:
        return shape.parameters - frozen
    adapters = shape.lora_parameters(stage.lora.rank, stage.lora.target_modules)
    return adapters + tower - frozen


def _patches(stage: AnyStage, shape: ModelShape) -> int:
    """Of a pack whose prompts are all image, in the proportion of prompt and response limits."""
    prompt, response = stage.max_prompt_tokens, stage.max_response_tokens
    share = prompt / (prompt + response)
    return int(stage.max_tokens_per_pack * share) * shape.vision.merge**2
