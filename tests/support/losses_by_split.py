"""Every loss of the trainer on one fixed batch, divided into a number of packs and over processes.

Each loss runs through the code that the stages use.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from discriminator_builders import build_comparisons, decided
from model_builders import MIXED, build_groups, build_model, packed
from prism_api import stages
from prism_api.algorithms import ALGORITHM_ROWS, resolve_rlvr
from prism_api.optimization import Optimization
from prism_api.reinforcement import KlEstimator, RolloutCorrection
from prism_api.resources import DataSource, Engine
from prism_trainer.data.rows import Row
from prism_trainer.discriminator.comparison import Comparison
from prism_trainer.discriminator.discriminator import Discriminator
from prism_trainer.discriminator.model import upcycle
from prism_trainer.distributed import Ranks
from prism_trainer.engine.packing import Group, split_into_packs
from prism_trainer.engine.policy import Network, Policy
from prism_trainer.losses.policy import objective_of
from prism_trainer.models import LoadedModel
from prism_trainer.rollouts import Completion
from prism_trainer.stages.policy_update import PolicyUpdate
from prism_trainer.stages.program import StageContext
from prism_trainer.stages.prompts import Draw
from prism_trainer.stages.sampling import SampledGroup
from prism_trainer.stages.sft import supervised_update
from stage_builders import stage_config

T = TypeVar("T")
Gradients = dict[str, Tensor]
Loss = Callable[[Engine, Ranks, int], Gradients]
"""Gradients of one step, whole, for an engine, processes, and a number of packs in each."""

SETTINGS = Optimization(learning_rate=1e-6, grad_clip=0.0)
_MOST_TOKENS = 10_000


def context_of(policy: Policy) -> StageContext:
    """What a policy's update needs of a stage: its policy and its processes."""
    absent: Any = None
    return StageContext(absent, policy.ranks, policy, absent, absent, absent, "", Path())


def sampled(group: Group) -> SampledGroup:
    """A group as it comes from sampling."""
    completions = tuple(
        Completion(c, np.zeros(len(c), np.float32), True, 0) for c in group.continuations
    )
    draw = Draw(0, 0, Row("file row 0", "0", (), ()), group.prompt)
    return SampledGroup(draw, completions, ("",) * len(completions))


def gradients_of_step(network: Network) -> Gradients:
    """Of the first step: AdamW's first moment, from nothing, is a tenth of it."""
    assert network.optimizer is not None
    state = network.optimizer.state()
    names = [name.removesuffix(".exp_avg") for name in state if name.endswith(".exp_avg")]
    return {n: state[f"{n}.exp_avg"].read().detach().cpu().clone() * 10 for n in names}


def _share(items: Sequence[T], ranks: Ranks) -> list[T]:
    return list(items[ranks.rank :: ranks.world_size])


def _limit(packs_at: Callable[[int], int], wanted: int) -> int:
    """The most tokens per pack with which there are so many packs."""
    if wanted == 1:
        return _MOST_TOKENS
    return next(limit for limit in range(300, 10, -1) if packs_at(limit) == wanted)


def _policy(engine: Engine, ranks: Ranks, groups: Sequence[Group], packs: int) -> Policy:
    limit = _limit(lambda tokens: len(split_into_packs(groups, tokens)), packs)
    policy = Policy(packed(build_model()), ranks, "fp32", limit, engine)
    policy.start_training(SETTINGS, 1)
    assert len(split_into_packs(groups, policy.max_tokens)) == packs
    return policy


def supervised(engine: Engine, ranks: Ranks, packs: int) -> Gradients:
    """Cross-entropy."""
    groups = _share(build_groups(), ranks)
    policy = _policy(engine, ranks, groups, packs)
    supervised_update(context_of(policy), groups, 0)
    return gradients_of_step(policy)


OBJECTIVES: dict[str, dict[str, Any]] = {
    **{algorithm: {"algorithm": algorithm} for algorithm in ALGORITHM_ROWS},
    "cispo": {"algorithm": "cispo", "clip_high": 0.1},
}
"""Every row of the table of algorithms, with bounds that act."""
PENALTIES: dict[str, dict[str, Any]] = {
    f"{algorithm}, {estimator}": {
        "algorithm": algorithm,
        "kl_coef": 0.5,
        "kl_estimator": estimator,
    }
    for algorithm, estimator in zip(("gspo", "grpo", "dr-grpo"), get_args(KlEstimator), strict=True)
}
"""Every estimator of the divergence from the initial policy, and every average of it."""
CORRECTIONS: dict[str, dict[str, Any]] = {
    f"{algorithm}, {level} weights, {mode}": {
        "algorithm": algorithm,
        "rollout_correction": RolloutCorrection(
            level=level, mode=mode, min_weight=0.5, max_weight=1.5
        ),
    }
    for algorithm in ("grpo", "gspo")
    for level in get_args(RolloutCorrection.model_fields["level"].annotation)
    for mode in get_args(RolloutCorrection.model_fields["mode"].annotation)
}
REINFORCED = {**OBJECTIVES, **PENALTIES, **CORRECTIONS}


def _as_served(group: SampledGroup, logprobs: Sequence[Tensor]) -> SampledGroup:
    """The group with log-probabilities near these, as a server has them."""
    rng = np.random.default_rng(3)
    completions = tuple(
        replace(c, logprobs=own.numpy() + rng.normal(0, 0.2, len(own)).astype(np.float32))
        for c, own in zip(group.completions, logprobs, strict=True)
    )
    return replace(group, completions=completions)


def reinforced(changes: Mapping[str, Any], engine: Engine, ranks: Ranks, packs: int) -> Gradients:
    """Off-policy by a shift of the old log-probabilities, so that ratios and clips are live."""
    source = DataSource(uri="file:///none.parquet")
    settings = resolve_rlvr(stages.RlvrStage(**changes, data=source, entropy_coef=0.01))
    rng = np.random.default_rng(2)
    everyone = [(g, _normal(rng, len(g.continuations)), _shifts(rng, g)) for g in build_groups()]
    mine = _share(everyone, ranks)
    policy = _policy(engine, ranks, [group for group, _, _ in mine], packs)
    groups = [sampled(group) for group, _, _ in mine]
    update = _policy_update(policy, settings, engine)
    current = update.current_logprobs(groups)
    old = [
        [now + shift for now, shift in zip(responses, shifts, strict=True)]
        for responses, (_, _, shifts) in zip(current, mine, strict=True)
    ]
    groups = [_as_served(group, logprobs) for group, logprobs in zip(groups, old, strict=True)]
    report = update.run(groups, [advantages for _, advantages, _ in mine], 0, old)
    assert report is not None
    assert report.clipped_tokens > 0
    assert (0 < report.gap.cut_tokens < report.tokens) == ("rollout_correction" in changes)
    assert (report.kl != 0) == ("kl_coef" in changes)
    return gradients_of_step(policy)


def _policy_update(policy: Policy, settings: stages.RlvrStage, engine: Engine) -> PolicyUpdate:
    config = stage_config(settings, Path(), Path(), engine=engine)
    context = replace(context_of(policy), config=config)
    with patch("prism_trainer.stages.policy_update.load_policy", _initial_model):
        return PolicyUpdate(context, settings, objective_of(settings))


def _initial_model(*_: Any) -> LoadedModel:
    """Another model, from which a penalty keeps the policy."""
    return LoadedModel(packed(build_model(seed=1)).train(), None, Path())


def _normal(rng: np.random.Generator, size: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(size))


def _shifts(rng: np.random.Generator, group: Group) -> list[Tensor]:
    return [0.2 * _normal(rng, len(c)).float() for c in group.continuations]


def adversarial(routing: Any, engine: Engine, ranks: Ranks, packs: int) -> Gradients:
    """The discriminator's pair loss with its load balance."""
    settings = stages.Discriminator(routing=routing, load_balance_coef=0.1)
    return _discriminated(settings, build_comparisons(), engine, ranks, packs)


def without_students(engine: Engine, ranks: Ranks, packs: int) -> Gradients:
    """The discriminator's loss on teachers alone: no response of the batch has the format."""
    settings = stages.Discriminator(fallback_coef=1.0, load_balance_coef=0.0)
    twice = build_comparisons(MIXED * 2, (0,) * 2 * len(MIXED))
    return _discriminated(settings, twice, engine, ranks, packs)


def _discriminated(
    settings: stages.Discriminator,
    everyone: Sequence[Comparison],
    engine: Engine,
    ranks: Ranks,
    packs: int,
) -> Gradients:
    batch = _share(everyone, ranks)
    model = decided(upcycle(build_model(), settings, 4))
    probe = Discriminator(model, settings, Ranks(), "fp32", _MOST_TOKENS)

    def packs_at(tokens: int) -> int:
        probe.max_tokens = tokens
        return len(probe._packs(probe._divide(batch)[0]))

    network = Discriminator(model, settings, ranks, "fp32", _limit(packs_at, packs), engine)
    network.start_training(SETTINGS, 1)
    network.train_on(batch, network.score(batch), 0)
    return gradients_of_step(network)


LOSSES: dict[str, Loss] = {
    "sft": supervised,
    **{name: partial(reinforced, changes) for name, changes in REINFORCED.items()},
    **{f"discriminator {r}": partial(adversarial, r) for r in ("learned", "segment")},
    "discriminator without students": without_students,
}
