"""Responses whose recorded log-probabilities are not the trainer's, as those of servers are: the
weights that they get, and what is said about them.

The in-process generator stands for a server here; what it records is moved by noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from model_builders import reference_logprobs, within
from prism_api.reinforcement import RolloutCorrection
from prism_api.resources import DataSource
from prism_trainer.generation.generator import InProcessGenerator
from prism_trainer.rollouts import Completion
from prism_trainer.stages.policy_update import PolicyUpdate
from rlvr_builders import Update, dapo_stage, program_of, run, watch_updates
from stage_builders import align_stage, rlvr_stage, run_to_end, stage_config

GAP_METRICS = {"rollout_gap", "rollout_gap_max", "rollout_kl", "rollout_cut_fraction"}


def noise_of(completion: Completion) -> NDArray[np.float32]:
    """As large as no server's, so that all bounds act."""
    rng = np.random.default_rng(completion.tokens)
    return rng.normal(0, 0.7, len(completion.tokens)).astype(np.float32)


@pytest.fixture
def _server(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = InProcessGenerator.generate

    def generate(self: InProcessGenerator, requests: Any, params: Any) -> list[list[Completion]]:
        answers = inner(self, requests, params)
        return [[replace(c, logprobs=c.logprobs + noise_of(c)) for c in group] for group in answers]

    monkeypatch.setattr(InProcessGenerator, "generate", generate)


def transcribed_weights(gap: Tensor, correction: RolloutCorrection) -> Tensor:
    """Of one response, token by token."""
    if correction.level == "sequence":
        gap = gap.sum().expand_as(gap)
    weights = gap.exp()
    low, high = correction.min_weight, correction.max_weight
    if correction.mode == "clamp":
        return weights.clamp(low, high)
    return torch.where((weights < low) | (weights > high), 0.0, weights)


def transcribed_loss(model: Any, update: Update, correction: RolloutCorrection) -> Tensor:
    """The on-policy loss response by response: -A w log p, averaged over all tokens."""
    total = torch.zeros(())
    for group, advantages in zip(update.groups, update.advantages, strict=True):
        ours = reference_logprobs(model, [group.packed()])
        parts = ours.split([len(c.tokens) for c in group.completions])
        for logprobs, a, completion in zip(parts, advantages, group.completions, strict=True):
            gap = logprobs.detach() - torch.from_numpy(completion.logprobs)
            total = total - (a * transcribed_weights(gap, correction) * logprobs).sum()
    return total / sum(len(c.tokens) for g in update.groups for c in g.completions)


def reference_gradients(
    folder: Path, weights: dict[str, Tensor], loss_of: Callable[[Any], Tensor]
) -> dict[str, Tensor]:
    model: Any = Qwen3VLForConditionalGeneration.from_pretrained(folder)
    model.load_state_dict(weights)
    loss_of(model).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


CORRECTIONS = [
    RolloutCorrection(level="token", mode="clamp", min_weight=0.5),
    RolloutCorrection(level="token", mode="mask", min_weight=0.5),
    RolloutCorrection(level="sequence", mode="clamp", max_weight=3.0),
    RolloutCorrection(level="sequence", mode="mask", max_weight=50.0),
]


@pytest.mark.usefixtures("_server")
@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda c: f"{c.level} {c.mode}")
@pytest.mark.parametrize("with_surplus", [False, True], ids=["fresh", "with surplus"])
def test_gradient_and_metrics_are_those_of_weighted_token_losses(
    talker: Path,
    prompts: DataSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    correction: RolloutCorrection,
    with_surplus: bool,
) -> None:
    """Surplus of dynamic sampling too: weights lead from what sampled it to the current policy."""
    common: dict[str, Any] = {
        "rollout_correction": correction,
        "learning_rate": 3e-3,
        "warmup_steps": 0,
        "grad_clip": 0.0,
    }
    dynamic = dapo_stage(prompts, batch_size=3, generation_batch_size=5, **common)
    stage = dynamic if with_surplus else rlvr_stage(prompts, **common)
    program = program_of(stage, talker, tmp_path)
    program.iterate("train", 0)
    weights = {n: t.clone() for n, t in program._context.policy.model.state_dict().items()}
    program._context.client.update_weights(1)
    seen = watch_updates(monkeypatch)
    metrics = program.iterate("train", 1).metrics
    ages = {c.weight_version for g in seen[0].groups for c in g.completions}
    assert ages == ({0, 1} if with_surplus else {1})

    theirs = reference_gradients(
        talker, weights, lambda model: transcribed_loss(model, seen[0], correction)
    )
    named = program._context.policy.model.named_parameters()
    ours = {n: p.grad.clone() for n, p in named if n in theirs}
    assert within(ours, theirs)
    uncorrected = RolloutCorrection(min_weight=1 - 1e-9, max_weight=1 + 1e-9)
    plain = reference_gradients(
        talker, weights, lambda model: transcribed_loss(model, seen[0], uncorrected)
    )
    assert not within(ours, plain), "weights that could not be told from 1"
    expected = expected_metrics(talker, weights, seen[0], correction)
    assert {name: metrics[name] for name in GAP_METRICS} == pytest.approx(expected, rel=1e-3)
    assert 0 < metrics["rollout_cut_fraction"] < 1


def expected_metrics(
    folder: Path, weights: dict[str, Tensor], update: Update, correction: RolloutCorrection
) -> dict[str, float]:
    """Over the tokens of the groups with an advantage, the others are not looked at."""
    model: Any = Qwen3VLForConditionalGeneration.from_pretrained(folder)
    model.load_state_dict(weights)
    gaps, cut = [], 0
    for group, advantages in zip(update.groups, update.advantages, strict=True):
        if not advantages.any():
            continue
        with torch.no_grad():
            ours = reference_logprobs(model, [group.packed()])
        for part, c in zip(
            ours.split([len(c.tokens) for c in group.completions]), group.completions, strict=True
        ):
            gap = part - torch.from_numpy(c.logprobs)
            free = gap.sum().expand_as(gap) if correction.level == "sequence" else gap
            cut += int((transcribed_weights(gap, correction) != free.exp()).sum())
            gaps.append(gap.double())
    flat = torch.cat(gaps)
    return {
        "rollout_gap": flat.abs().mean().item(),
        "rollout_gap_max": flat.abs().max().item(),
        "rollout_kl": (flat.exp() - 1 - flat).mean().item(),
        "rollout_cut_fraction": cut / len(flat),
    }


def test_in_process_the_correction_finds_nothing_to_correct(
    talker: Path, prompts: DataSource, tmp_path: Path
) -> None:
    """Its log-probabilities are the trainer's to 1e-5, after every step again."""
    plain, corrected = (
        run(
            rlvr_stage(prompts, mini_batches=2, rollout_correction=correction),
            talker,
            tmp_path / str(bool(correction)),
        )
        for correction in (None, RolloutCorrection())
    )
    assert not any(GAP_METRICS & row.keys() for row in plain.history())
    assert max(corrected.column("rollout_gap_max")) < 1e-4
    assert 0 <= max(corrected.column("rollout_kl")) < 1e-9
    assert corrected.column("rollout_cut_fraction") == [0.0] * 4
    for name in ("loss", "entropy", "grad_norm", "reward"):
        assert corrected.column(name) == pytest.approx(plain.column(name), rel=1e-3, abs=1e-4)


@pytest.mark.usefixtures("_server")
def test_without_a_correction_recorded_log_probabilities_of_fresh_responses_do_not_matter(
    talker: Path, prompts: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = run(rlvr_stage(prompts, steps=2), talker, tmp_path / "noisy")
    monkeypatch.undo()
    silent = run(rlvr_stage(prompts, steps=2), talker, tmp_path / "silent")
    assert noisy.tensors() == silent.tensors()
    assert noisy.history() == silent.history()


@pytest.mark.usefixtures("_server")
def test_alignment_is_corrected_too(talker: Path, teachers: DataSource, tmp_path: Path) -> None:
    stage = align_stage(teachers, steps=1, rollout_correction=RolloutCorrection())
    finished = run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    (gap,), (cut,) = finished.column("rollout_gap"), finished.column("rollout_cut_fraction")
    assert gap == pytest.approx(0.7 * (2 / torch.pi) ** 0.5, rel=0.1), "the mean of the noise"
    assert 0.05 < cut < 0.4


@pytest.mark.usefixtures("_server")
def test_with_several_mini_batches_weights_compare_with_the_policy_before_the_first(
    talker: Path, prompts: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the second step's policy has moved on: that is what its ratios are for."""
    seen = watch_updates(monkeypatch)
    forwards: list[Sequence[Any]] = []
    inner = PolicyUpdate.current_logprobs

    def watching(self: PolicyUpdate, groups: Any) -> Any:
        forwards.append(inner(self, groups))
        return forwards[-1]

    monkeypatch.setattr(PolicyUpdate, "current_logprobs", watching)
    stage = rlvr_stage(
        prompts, steps=1, mini_batches=2, learning_rate=1e-2, rollout_correction=CORRECTIONS[0]
    )
    run(stage, talker, tmp_path)
    (before,) = forwards
    assert len(seen) == 2
    given = [old for update in seen for group in update.old_logprobs or () for old in group]
    assert sorted(map(id, given)) == sorted(id(old) for group in before for old in group)
    for update in seen:
        assert update.report is not None
        gaps = [
            now - torch.from_numpy(c.logprobs)
            for group, advantages, old in zip(
                update.groups, update.advantages, update.old_logprobs or (), strict=True
            )
            if advantages.any()
            for now, c in zip(old, group.completions, strict=True)
            if now is not None
        ]
        distance = float(torch.cat(gaps).abs().double().sum())
        assert update.report.gap.distance == pytest.approx(distance, rel=1e-5)
