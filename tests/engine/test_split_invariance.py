"""Dividing a batch into 1, 2 or more packs changes no gradient, for every loss of the trainer.

Each loss runs through the code that the stages use; the reference is the same batch in one pack.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from discriminator_builders import ONE_PACK, build_comparisons, build_discriminator
from model_builders import (
    build_groups,
    build_model,
    build_policy,
    relative_difference,
)
from prism_api import stages
from prism_api.algorithms import resolve_rlvr
from prism_api.optimization import Optimization
from prism_api.reinforcement import Algorithm, RolloutCorrection
from prism_api.resources import DataSource
from prism_trainer.data.rows import Row
from prism_trainer.engine.packing import Tokens
from prism_trainer.engine.policy import Network, Policy
from prism_trainer.losses.policy import objective_of
from prism_trainer.rollouts import Completion
from prism_trainer.stages.policy_update import PolicyUpdate, UpdateReport
from prism_trainer.stages.program import StageContext
from prism_trainer.stages.prompts import Draw
from prism_trainer.stages.sampling import SampledGroup
from prism_trainer.stages.sft import supervised_update

NO_CLIPPING = Optimization(learning_rate=1e-6, grad_clip=0.0)
SPLITS = {"two packs": 110, "three packs": 70, "four packs": 60, "divided groups": 35}
TOLERANCE = 2e-6
"""Float32 rounding of sums in another order."""
ROUTED_TOLERANCE = 2e-5
"""The same after routers whose weights are thirty times their usual size."""


@pytest.fixture(params=SPLITS.values(), ids=list(SPLITS))
def max_tokens(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def context_of(policy: Policy) -> StageContext:
    """What a policy's update needs of a stage: its policy and its processes."""
    absent: Any = None
    return StageContext(absent, policy.ranks, policy, absent, absent, absent, "", Path())


def gradients_after(network: Network, step: Callable[[], object]) -> dict[str, Tensor]:
    network.start_training(NO_CLIPPING, 1)
    step()
    return {n: p.grad.clone() for n, p in network.model.named_parameters() if p.grad is not None}


def assert_equal(
    ours: dict[str, Tensor], whole: dict[str, Tensor], tolerance: float = TOLERANCE
) -> None:
    # A parameter whose gradient is rounding noise in itself (a key's bias) is held to the others'.
    scale = max(float(g.norm()) for g in whole.values())
    assert scale > 1e-3
    for name, difference in relative_difference(ours, whole).items():
        size = float(whole[name].norm())
        assert difference * size < tolerance * max(size, 0.01 * scale), name


def supervised(max_tokens: int) -> dict[str, Tensor]:
    policy = build_policy(build_model(), max_tokens)
    return gradients_after(policy, lambda: supervised_update(context_of(policy), build_groups(), 0))


def test_supervised_gradients_do_not_depend_on_the_packs(max_tokens: int) -> None:
    assert_equal(supervised(max_tokens), supervised(ONE_PACK))


def completion_of(tokens: Tokens) -> Completion:
    return Completion(tokens, np.zeros(len(tokens), np.float32), finished=True, weight_version=0)


def sampled_groups() -> list[SampledGroup]:
    row = Row("file row 0", "0", (), ())
    return [
        SampledGroup(
            Draw(0, 0, row, group.prompt),
            tuple(
                Completion(c, np.zeros(len(c), np.float32), True, 0) for c in group.continuations
            ),
            ("",) * len(group.continuations),
        )
        for group in build_groups()
    ]


OBJECTIVES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dapo": {},
    "gspo": {},
    "dr-grpo": {},
    "cispo": {"clip_high": 0.1},
    **{
        f"grpo, {level} weights, {mode}": {
            "algorithm": "grpo",
            "rollout_correction": RolloutCorrection(
                level=level, mode=mode, min_weight=0.5, max_weight=1.5
            ),
        }
        for level in get_args(RolloutCorrection.model_fields["level"].annotation)
        for mode in get_args(RolloutCorrection.model_fields["mode"].annotation)
    },
}
"""Algorithms and corrections, with bounds that act."""


def as_served(group: SampledGroup, logprobs: Sequence[Tensor]) -> SampledGroup:
    """The group with log-probabilities near these, as a server has them."""
    rng = np.random.default_rng(3)
    completions = tuple(
        replace(c, logprobs=own.numpy() + rng.normal(0, 0.2, len(own)).astype(np.float32))
        for c, own in zip(group.completions, logprobs, strict=True)
    )
    return replace(group, completions=completions)


def reinforced(name: str, max_tokens: int) -> tuple[dict[str, Tensor], UpdateReport]:
    """Off-policy by a shift of the old log-probabilities, so that ratios and clips are live."""
    settings = resolve_rlvr(
        stages.RlvrStage(
            **{"algorithm": name, **OBJECTIVES[name]},
            data=DataSource(uri="file:///none.parquet"),
            max_tokens_per_pack=max_tokens,
            entropy_coef=0.01,
        )
    )
    policy = build_policy(build_model(), max_tokens)
    groups = sampled_groups()
    rng = np.random.default_rng(2)
    advantages = [torch.from_numpy(rng.standard_normal(len(g.completions))) for g in groups]
    update = PolicyUpdate(context_of(policy), settings, objective_of(settings))
    old = [
        [now + 0.2 * torch.from_numpy(rng.standard_normal(len(now))).float() for now in responses]
        for responses in update.current_logprobs(groups)
    ]
    groups = [as_served(group, logprobs) for group, logprobs in zip(groups, old, strict=True)]
    reports: list[UpdateReport] = []

    def step() -> None:
        report = update.run(groups, advantages, 0, old)
        assert report is not None
        reports.append(report)

    gradients = gradients_after(policy, step)
    return gradients, reports[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_policy_gradients_do_not_depend_on_the_packs(name: str, max_tokens: int) -> None:
    ours, report = reinforced(name, max_tokens)
    whole, _ = reinforced(name, ONE_PACK)
    assert_equal(ours, whole)
    assert report.clipped_tokens > 0
    assert (0 < report.gap.cut_tokens < report.tokens) == ("weights" in name)


def test_every_algorithm_is_split() -> None:
    assert set(OBJECTIVES) >= set(get_args(Algorithm))


def played(settings: stages.Discriminator, max_tokens: int) -> dict[str, Tensor]:
    network = build_discriminator(build_model(), settings, max_tokens)
    batch = build_comparisons()
    scored = network.score(batch)
    return gradients_after(network, lambda: network.train_on(batch, scored, 0))


@pytest.mark.parametrize("routing", ["learned", "segment"])
@pytest.mark.parametrize("max_tokens", [200, 90], ids=["two packs", "a pack each"])
def test_discriminator_gradients_do_not_depend_on_the_packs(routing: Any, max_tokens: int) -> None:
    settings = stages.Discriminator(routing=routing, load_balance_coef=0.1)
    assert_equal(played(settings, max_tokens), played(settings, ONE_PACK), ROUTED_TOLERANCE)


@pytest.mark.parametrize("routing", ["learned", "segment"])
def test_discriminator_gradients_do_not_depend_on_the_division_of_a_group(routing: Any) -> None:
    """Although every part repeats prompt and teacher."""
    settings = stages.Discriminator(routing=routing, load_balance_coef=0.1)
    assert_equal(played(settings, 60), played(settings, ONE_PACK), ROUTED_TOLERANCE)
