"""What every engine must compute alike, whoever holds which part of the batch.

Each case takes an engine and the processes, works on this process's share of one fixed batch, and
gives what came of it. Shares are as uneven as they get: the first process has all prompts with
images, the others only text, or nothing at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from discriminator_builders import build_comparisons, decided
from losses_by_split import LOSSES, Loss, context_of, gradients_of_step, sampled
from model_builders import build_groups, build_model, packed
from prism_api import stages
from prism_api.algorithms import resolve_rlvr
from prism_api.errors import NonFiniteLoss
from prism_api.optimization import Optimization
from prism_api.resources import DataSource, Engine
from prism_store.checkpoints import read_checkpoint
from prism_store.store import DirectoryStore
from prism_trainer.discriminator.discriminator import Discriminator
from prism_trainer.discriminator.model import upcycle
from prism_trainer.distributed import Ranks
from prism_trainer.engine.lora import add_adapters
from prism_trainer.engine.packing import Group, Pack, Prompt
from prism_trainer.engine.policy import Network, Policy, StepReport
from prism_trainer.engine.sharding import checkpoint_layers
from prism_trainer.generation.generator import InProcessGenerator
from prism_trainer.losses.policy import objective_of
from prism_trainer.rollouts import Request, SamplingParams
from prism_trainer.rollouts.publish import Publisher
from prism_trainer.stages.policy_update import PolicyUpdate
from prism_trainer.stages.sft import supervised_update
from stage_builders import stage_config

T = TypeVar("T")
STEPS = 3
MAX_TOKENS = 40
"""Several packs, and more of them for images than for text."""
SETTINGS = Optimization(learning_rate=1e-3, grad_clip=0.0, weight_decay=0.1)


@dataclass
class Outcome:
    """What a case computed; the tensors are whole."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """Of the first step."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """After the last step."""
    values: dict[str, Tensor | bool] = field(default_factory=dict)
    """Whatever else must be equal; flags among them are true."""

    def after(self, network: Network, report: StepReport) -> None:
        """Note a step."""
        self.losses.append(report.loss)
        self.norms.append(report.grad_norm)
        self.gradients = self.gradients or gradients_of_step(network)
        self.weights = {name: _copy(source) for name, source in network.weights().items()}


Case = Callable[[Engine, Ranks], Outcome]


def _copy(source: Any) -> Tensor:
    tensor: Tensor = source.read()
    return tensor.detach().cpu().clone()


def share(items: Sequence[T], has_image: Callable[[T], bool], ranks: Ranks) -> list[T]:
    """The first process has what shows images, the last one the rest."""
    if ranks.world_size == 1:
        return list(items)
    wanted = ranks.is_first
    return [i for i in items if has_image(i) == wanted] if ranks.rank < 2 else []


def share_of_groups(ranks: Ranks) -> list[Group]:
    return share(build_groups(), lambda group: bool(group.prompt.grids), ranks)


def build_policy(engine: Engine, ranks: Ranks, recompute: bool = False) -> Policy:
    model = packed(build_model()).train()
    if recompute:
        checkpoint_layers(model)
    return Policy(model, ranks, "fp32", MAX_TOKENS, engine)


def _supervised_steps(policy: Policy, ranks: Ranks) -> Outcome:
    policy.start_training(SETTINGS, STEPS)
    outcome = Outcome()
    for step in range(STEPS):
        report, _ = supervised_update(context_of(policy), share_of_groups(ranks), step)
        outcome.after(policy, report)
    return outcome


def supervised(engine: Engine, ranks: Ranks) -> Outcome:
    """Cross-entropy; packs are uneven and one process has no image."""
    return _supervised_steps(build_policy(engine, ranks), ranks)


def recomputed(engine: Engine, ranks: Ranks) -> Outcome:
    """The same with layers that are recomputed in the backward pass."""
    return _supervised_steps(build_policy(engine, ranks, recompute=True), ranks)


def mixture(engine: Engine, ranks: Ranks) -> Outcome:
    """The same of a mixture of experts."""
    model = packed(build_model(mixture=True)).train()
    return _supervised_steps(Policy(model, ranks, "fp32", MAX_TOKENS, engine), ranks)


def supervised_by_one(engine: Engine, ranks: Ranks) -> Outcome:
    """Only the first process has anything to learn from."""
    policy, outcome = build_policy(engine, ranks), Outcome()
    policy.start_training(SETTINGS, STEPS)
    groups = build_groups() if ranks.is_first else []
    for step in range(STEPS):
        outcome.after(policy, supervised_update(context_of(policy), groups, step)[0])
    return outcome


def frozen_tower(engine: Engine, ranks: Ranks) -> Outcome:
    """Only the language model is trained."""
    model = packed(build_model())
    model.model.visual.requires_grad_(False)
    return _supervised_steps(Policy(model, ranks, "fp32", MAX_TOKENS, engine), ranks)


def reinforced(engine: Engine, ranks: Ranks) -> Outcome:
    """GRPO off-policy: old log-probabilities from a pass without gradient, two steps on them."""
    source = DataSource(uri="file:///none.parquet")
    settings = resolve_rlvr(
        stages.RlvrStage(data=source, max_tokens_per_pack=MAX_TOKENS, entropy_coef=0.01)
    )
    policy, outcome = build_policy(engine, ranks), Outcome()
    policy.start_training(SETTINGS, STEPS)
    groups = [sampled(group) for group in share_of_groups(ranks)]
    advantages = [
        torch.linspace(-1, 1, len(g.completions) + 1, dtype=torch.float64)[1:] for g in groups
    ]
    update = PolicyUpdate(context_of(policy), settings, objective_of(settings))
    old = update.current_logprobs(groups)
    for step in range(2):
        report = update.run(groups, advantages, step, old)
        assert report is not None
        outcome.after(policy, report.step)
    return outcome


def without_advantage(engine: Engine, ranks: Ranks) -> Outcome:
    """GRPO: of three steps, the second has nothing to learn from in any process."""
    source = DataSource(uri="file:///none.parquet")
    settings = resolve_rlvr(stages.RlvrStage(data=source, max_tokens_per_pack=MAX_TOKENS))
    policy, outcome = build_policy(engine, ranks), Outcome()
    policy.start_training(SETTINGS, STEPS)
    groups = [sampled(group) for group in share_of_groups(ranks)]
    update = PolicyUpdate(context_of(policy), settings, objective_of(settings))
    for step in range(STEPS):
        sign = 0 if step == 1 else 1
        advantages = [
            sign * torch.linspace(-1, 1, len(g.completions) + 1).double()[1:] for g in groups
        ]
        report = update.run(groups, advantages, step)
        assert report is not None
        outcome.after(policy, report.step)
    return outcome


def continued(engine: Engine, ranks: Ranks) -> Outcome:
    """A step, then another network that is given what the first one would save, and another
    step; what is saved (moments among the gradients here) is the same under every engine."""
    first, outcome = build_policy(engine, ranks), Outcome()
    first.start_training(SETTINGS, STEPS)
    outcome.after(first, supervised_update(context_of(first), share_of_groups(ranks), 0)[0])
    assert first.optimizer is not None
    weights = {name: _copy(source) for name, source in first.weights().items()}
    state = {name: _copy(source) for name, source in first.optimizer.state().items()}
    outcome.gradients = {n: t.clone() for n, t in state.items() if not n.endswith(".step")}
    outcome.values = {n: t.clone() for n, t in state.items() if n.endswith(".step")}
    second = build_policy(engine, ranks)
    second.start_training(SETTINGS, STEPS)
    second.load_weights(weights)
    assert second.optimizer is not None
    second.optimizer.load_state(state)
    outcome.after(second, supervised_update(context_of(second), share_of_groups(ranks), 1)[0])
    return outcome


def adapted(engine: Engine, ranks: Ranks) -> Outcome:
    """GRPO of adapters with a penalty on leaving
    the initial policy: the same model without them, within the same pass."""
    source = DataSource(uri="file:///none.parquet")
    lora = stages.Lora(rank=4)
    settings = resolve_rlvr(
        stages.RlvrStage(data=source, max_tokens_per_pack=MAX_TOKENS, kl_coef=0.5, lora=lora)
    )
    model = packed(build_model()).train()
    model.model.visual.requires_grad_(False)
    add_adapters(model, lora, seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.copy_(0.1 * parameter.new_ones(parameter.shape).cumsum(0).sin())
    checkpoint_layers(model)
    policy, outcome = Policy(model, ranks, "fp32", MAX_TOKENS, engine), Outcome()
    policy.start_training(SETTINGS, STEPS)
    groups = [sampled(group) for group in share_of_groups(ranks)]
    advantages = [torch.linspace(-1, 1, len(g.completions) + 1).double()[1:] for g in groups]
    update = PolicyUpdate(context_of(policy), settings, objective_of(settings))
    for step in range(STEPS):
        report = update.run(groups, advantages, step)
        assert report is not None
        outcome.values[f"kl {step}"] = torch.tensor(report.kl / report.tokens)
        outcome.after(policy, report.step)
    return outcome


def adversarial(engine: Engine, ranks: Ranks) -> Outcome:
    """Scores and updates of the discriminator, with load balance and head dropout; its layers are
    recomputed in the backward pass."""
    settings = stages.Discriminator(routing="segment", load_balance_coef=0.1)
    model = decided(upcycle(build_model(), settings, 4)).train()
    checkpoint_layers(model)
    network = Discriminator(model, settings, ranks, "fp32", 90, engine)
    network.start_training(SETTINGS, STEPS)
    batch = share(build_comparisons(), lambda c: bool(c.prompt.grids), ranks)
    outcome = Outcome()
    for step in range(STEPS):
        scored = network.score(batch)
        outcome.values[f"shares {step}"] = scored.expert_shares
        outcome.after(network, network.train_on(batch, scored, step))
    return outcome


def generated(engine: Engine, ranks: Ranks) -> Outcome:
    """Greedy tokens; one process has several batches, the other one or none."""
    policy = build_policy(engine, ranks)
    policy.start_training(SETTINGS, STEPS)
    generator = InProcessGenerator(policy, 10_000, batch_size=2)
    prompts = [group.prompt for group in build_groups()]
    outcome = Outcome()
    for case, mine in {"images": share(prompts, _shows, ranks), "one": prompts[:1]}.items():
        asked = mine if case == "images" or ranks.is_first else []
        requests = [Request(prompt, (0,)) for prompt in asked]
        completions = generator.generate(requests, SamplingParams(8, temperature=0.0))
        found = [c.tokens.tolist() for (c,) in completions]
        everyone = [tokens for part in ranks.gather(found) for tokens in part]
        outcome.values[case] = torch.tensor(sorted(everyone))
    return outcome


def _shows(prompt: Prompt) -> bool:
    return bool(prompt.grids)


class _Broken(torch.autograd.Function):
    """A finite loss whose gradient is not."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.inf


def not_finite(engine: Engine, ranks: Ranks) -> Outcome:
    """A gradient that is not finite in the first process stops the step in all, and leaves the
    weights that the step before has made."""
    policy, outcome = build_policy(engine, ranks), Outcome()
    policy.start_training(SETTINGS, STEPS)
    groups = share_of_groups(ranks)
    outcome.after(policy, supervised_update(context_of(policy), groups, 0)[0])

    def loss_of(_: int, pack: Pack) -> Tensor:
        loss = -policy.logprobs(pack)[0].sum() / 100
        broken: Tensor = _Broken.apply(loss)  # type: ignore[no-untyped-call]
        return broken if ranks.is_first else loss

    with pytest.raises(NonFiniteLoss, match="weights are unchanged"):
        policy.update(policy.packs(groups), loss_of, 1)
    after = {name: _copy(source) for name, source in policy.weights().items()}
    outcome.values = {n: torch.equal(t, outcome.weights[n]) for n, t in after.items()}
    return outcome


def half_precision(engine: Engine, ranks: Ranks) -> Outcome:
    """Cross-entropy in bfloat16 with a frozen tower, which must come out as it went in."""
    model = packed(build_model()).train()
    model.model.visual.requires_grad_(False)
    outcome = _supervised_steps(Policy(model, ranks, "bf16", MAX_TOKENS, engine), ranks)
    outcome.values = {n: t for n, t in outcome.weights.items() if ".visual." in n}
    return outcome


def adapted_in_half_precision(engine: Engine, ranks: Ranks) -> Outcome:
    """Adapters in bfloat16; what leaves the trainer are the float32 weights with them merged, also
    after a resume."""
    outcome = Outcome()
    policy = _with_adapters(engine, ranks)
    outcome.after(policy, supervised_update(context_of(policy), share_of_groups(ranks), 0)[0])
    saved = {name: _copy(source) for name, source in policy.trained_weights().items()}
    resumed = _with_adapters(engine, ranks)
    resumed.load_weights(saved)
    again = {name: _copy(source) for name, source in resumed.weights().items()}
    outcome.values = {n: torch.equal(t, outcome.weights[n]) for n, t in again.items()}
    outcome.values |= {n: t for n, t in outcome.weights.items() if not n.endswith("_proj.weight")}
    return outcome


def _with_adapters(engine: Engine, ranks: Ranks) -> Policy:
    model = packed(build_model()).train()
    model.model.visual.requires_grad_(False)
    add_adapters(model, stages.Lora(rank=2), seed=3)
    policy = Policy(model, ranks, "bf16", MAX_TOKENS, engine)
    policy.start_training(SETTINGS, STEPS)
    return policy


def adversarial_in_half_precision(engine: Engine, ranks: Ranks) -> Outcome:
    """Scores and updates of the discriminator in bfloat16."""
    settings = stages.Discriminator(routing="segment", load_balance_coef=0.1)
    model = decided(upcycle(build_model(), settings, 4)).train()
    network = Discriminator(model, settings, ranks, "bf16", 90, engine)
    network.start_training(SETTINGS, STEPS)
    batch = share(build_comparisons(), lambda c: bool(c.prompt.grids), ranks)
    outcome = Outcome()
    for step in range(STEPS):
        outcome.after(network, network.train_on(batch, network.score(batch), step))
    return outcome


def published(engine: Engine, ranks: Ranks) -> Outcome:
    """What rollout servers are given: adapters merged, after a step."""
    lora = stages.Lora(rank=2)
    model = packed(build_model()).train()
    add_adapters(model, lora, seed=3)
    policy = Policy(model, ranks, "fp32", MAX_TOKENS, engine)
    policy.start_training(SETTINGS, STEPS)
    supervised_update(context_of(policy), share_of_groups(ranks), 0)
    with TemporaryDirectory() as made:
        folder = Path(ranks.gather(made)[0])
        absent = DataSource(uri="file:///none.parquet")
        config = stage_config(stages.RlvrStage(data=absent), folder, folder)
        store = DirectoryStore(config.stage_uri)
        publisher = Publisher(store, config, ranks, folder / "work", torch.float32)
        weights = publisher.publish(policy.weights(), 1)
        (path,) = read_checkpoint(weights.checkpoint).files.values()
        outcome = Outcome(weights=load_file(path))
        ranks.barrier()
    outcome.values = {"tensors": torch.tensor(len(outcome.weights))}
    return outcome


def split(loss: Loss, packs: int, engine: Engine, ranks: Ranks) -> Outcome:
    """A loss on so many packs in each process; one process has it all in one pack."""
    return Outcome(gradients=loss(engine, ranks, packs if ranks.world_size > 1 else 1))


IN_HALF_PRECISION: dict[str, Case] = {
    "half precision": half_precision,
    "adapted in half precision": adapted_in_half_precision,
    "adversarial in half precision": adversarial_in_half_precision,
}
CASES: dict[str, Case] = {
    "supervised": supervised,
    "recomputed": recomputed,
    "mixture": mixture,
    "supervised by one": supervised_by_one,
    "frozen tower": frozen_tower,
    "reinforced": reinforced,
    "without advantage": without_advantage,
    "continued": continued,
    "adapted": adapted,
    "adversarial": adversarial,
    "generated": generated,
    "published": published,
    "not finite": not_finite,
    **IN_HALF_PRECISION,
    **{
        f"{name} in {packs}": partial(split, loss, packs)
        for name, loss in LOSSES.items()
        for packs in (1, 2, 4)
    },
}
