"""RLVR in a few steps: rewards rise, and every switch does what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from prism_api.reinforcement import Overlong
from prism_api.resources import DataSource
from prism_trainer.distributed import Ranks
from prism_trainer.engine.policy import Policy
from prism_trainer.models import load_policy
from prism_trainer.rewards.reward import RewardWeights, score
from prism_trainer.stages import policy_update
from prism_trainer.stages.rlvr import mini_batches
from ranks_in_threads import on_every_rank
from rlvr_builders import run, watch_updates
from stage_builders import (
    UNVERIFIABLE,
    Finished,
    Row,
    rlvr_stage,
    with_long_prompt,
    with_truth,
    write_rows,
)


def unmoved(finished: Finished, talker: Path) -> bool:
    before = load_file(talker / "model.safetensors")
    return all(torch.equal(tensor, before[name]) for name, tensor in finished.weights().items())


@pytest.mark.parametrize("algorithm", ["grpo", "gspo", "dr-grpo", "cispo"])
def test_right_answers_become_frequent(
    talker: Path, prompts: DataSource, tmp_path: Path, algorithm: Any
) -> None:
    stage = rlvr_stage(
        prompts,
        algorithm=algorithm,
        steps=14,
        batch_size=8,
        rollouts_per_prompt=8,
        learning_rate=3e-4,
        warmup_steps=0,
        checkpoint_every_steps=14,
    )
    accuracy = run(stage, talker, tmp_path).column("accuracy")
    assert sum(accuracy[-3:]) / 3 > sum(accuracy[:3]) / 3 + 0.2


def test_a_rate_next_to_zero_leaves_weights_ratios_and_divergence_as_they_were(
    talker: Path, prompts: DataSource, tmp_path: Path
) -> None:
    stage = rlvr_stage(
        prompts, learning_rate=1e-30, mini_batches=2, kl_coef=0.1, clip_low=1e-4, clip_high=1e-4
    )
    finished = run(stage, talker, tmp_path)
    assert unmoved(finished, talker)
    assert finished.column("kl") == pytest.approx([0.0] * 4, abs=1e-9)
    assert finished.column("clip_fraction") == [0.0] * 4


def test_with_one_mini_batch_no_clip_acts(
    talker: Path, prompts: DataSource, tmp_path: Path
) -> None:
    stage = rlvr_stage(prompts, clip_low=1e-4, clip_high=1e-4, learning_rate=1e-2)
    clipped = run(stage, talker, tmp_path).column("clip_fraction")
    assert set(clipped) == {0.0}


def test_several_mini_batches_make_ratios_and_clips_live(
    talker: Path, prompts: DataSource, tmp_path: Path
) -> None:
    stage = rlvr_stage(prompts, clip_low=1e-4, clip_high=1e-4, mini_batches=2)
    clipped = run(stage, talker, tmp_path).column("clip_fraction")
    # The first of two mini-batches is still on policy; of the second, about half the tokens with an
    # advantage move past a clip.
    assert all(0.02 < share < 0.5 for share in clipped)


def test_mini_batches_take_one_optimizer_step_each(
    talker: Path, prompts: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_updates(monkeypatch)
    run(rlvr_stage(prompts, steps=2, mini_batches=2), talker, tmp_path / "two")
    run(rlvr_stage(prompts, steps=2), talker, tmp_path / "one")
    assert [(u.step, len(u.groups)) for u in seen] == [
        (0, 2),
        (1, 2),
        (2, 2),
        (3, 2),
        (0, 4),
        (1, 4),
    ]
    for update in seen:
        old = [value for group in update.old_logprobs or () for value in group]
        assert len(old) == 4 * len(update.groups)
        has_ratios = len(update.groups) == 2
        assert all((value is not None) == has_ratios for value in old)


PARTS = st.integers(1, 5)
PLACES = st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True)


@given(batch=PLACES, owners=st.lists(st.integers(0, 2), min_size=12, max_size=12), parts=PARTS)
def test_mini_batches_cut_the_batch_evenly_and_alike_for_all_numbers_of_processes(
    batch: list[int], owners: list[int], parts: int
) -> None:
    """Whoever has which of its groups, and if some have none."""
    mine = [
        [p for p, owner in zip(batch, owners, strict=False) if owner == rank] for rank in range(3)
    ]
    shares = on_every_rank(3, lambda ranks: mini_batches(mine[ranks.rank], parts, ranks))
    alone = mini_batches(batch, parts, Ranks())
    for part in range(parts):
        together = [mine[rank][i] for rank in range(3) for i in shares[rank][part]]
        assert sorted(together) == sorted(batch[i] for i in alone[part])
    assert [len(share) for share in shares] == [parts] * 3
    assert max(map(len, alone)) - min(map(len, alone)) <= 1
    in_order = [batch[i] for part in alone for i in sorted(part, key=lambda i: batch[i])]
    assert in_order == sorted(batch)


def test_a_mini_batch_that_has_lost_all_its_prompts_takes_no_optimizer_step(
    talker: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uneven = [row if i % 2 else with_long_prompt(row) for i, row in enumerate(rows)]
    data = write_rows(tmp_path / "uneven.parquet", uneven)
    seen = watch_updates(monkeypatch)
    finished = run(rlvr_stage(data, mini_batches=4), talker, tmp_path / "run")
    assert [update.step for update in seen] == list(range(16))
    dropped = finished.column("dropped_samples")
    assert sum(dropped) == 8, "four batches are the data once"
    kept = [sum(len(u.groups) for u in seen[4 * step : 4 * step + 4]) for step in range(4)]
    assert kept == [4 - count for count in dropped]
    empty = [update for update in seen if not update.groups]
    assert empty
    assert all(update.report is None for update in empty)
    assert all(update.report is not None for update in seen if update.groups)
    assert all(entropy > 0 for entropy in finished.column("entropy"))


def test_steps_and_weight_versions_are_the_policys_optimizer_steps(
    talker: Path, prompts: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_updates(monkeypatch)
    finished = run(rlvr_stage(prompts, mini_batches=2), talker, tmp_path)
    versions = [{c.weight_version for g in u.groups for c in g.completions} for u in seen]
    assert versions == [{0}, {0}, {2}, {2}, {4}, {4}, {6}, {6}]
    manifest = json.loads((finished.checkpoint / "manifest.json").read_text())
    assert (manifest["step"], manifest["weightVersion"]) == (4, 8)
    assert finished.result()["steps"] == 8


def test_the_kl_penalty_holds_the_policy_near_its_start(
    talker: Path, prompts: DataSource, tmp_path: Path
) -> None:
    free, held = (
        run(rlvr_stage(prompts, steps=6, kl_coef=coefficient), talker, tmp_path / str(coefficient))
        for coefficient in (1e-9, 3.0)
    )
    assert free.column("kl")[0] == held.column("kl")[0] == pytest.approx(0.0, abs=1e-9)
    assert max(free.column("kl")) > 0.01
    assert sum(held.column("kl")) < 0.5 * sum(free.column("kl"))


@pytest.mark.parametrize(("algorithm", "is_scaled"), [("grpo", True), ("dr-grpo", False)])
def test_advantages_are_z_scores_and_in_dr_grpo_distances_from_the_mean(
    talker: Path,
    prompts: DataSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: Any,
    is_scaled: bool,
) -> None:
    seen = watch_updates(monkeypatch)
    run(rlvr_stage(prompts, algorithm=algorithm, steps=1), talker, tmp_path)
    ours = torch.stack(list(seen[0].advantages))
    assert ours.mean(dim=1).tolist() == pytest.approx([0.0] * 4, abs=1e-12)
    weights = RewardWeights(0.8, 0.2)
    rewards = torch.tensor(
        [
            [score(text, g.draw.row.truths, weights).total for text in g.texts]
            for g in seen[0].groups
        ],
        dtype=torch.float64,
    )
    deviations = rewards.std(dim=1, keepdim=True)
    assert deviations.max() > 0
    expected = rewards - rewards.mean(dim=1, keepdim=True)
    expected = expected / (deviations + 1e-6) if is_scaled else expected
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_without_a_coefficient_the_initial_policy_is_neither_loaded_nor_asked(
    talker: Path,
    prompts: DataSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    coefficient: float,
) -> None:
    passes: list[Any] = []
    inner_pass = Policy.initial_logprobs

    def load(*arguments: Any) -> Any:
        passes.append("loaded")
        return load_policy(*arguments)

    def ask(*arguments: Any) -> Any:
        passes.append("asked")
        return inner_pass(*arguments)

    monkeypatch.setattr(policy_update, "load_policy", load)
    monkeypatch.setattr(Policy, "initial_logprobs", ask)
    run(rlvr_stage(prompts, steps=1, kl_coef=coefficient), talker, tmp_path)
    assert set(passes) == ({"loaded", "asked"} if coefficient else set())


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_each_estimator_penalises_the_distance_from_the_initial_policy(
    talker: Path, prompts: DataSource, tmp_path: Path, estimator: Any
) -> None:
    stage = rlvr_stage(prompts, steps=3, kl_coef=1e-9, kl_estimator=estimator)
    kl = run(stage, talker, tmp_path).column("kl")
    assert kl[0] == pytest.approx(0.0, abs=1e-9)
    assert max(kl[1:]) > 0.001


def test_the_entropy_bonus_alone_raises_entropy(
    talker: Path, rows: list[Row], tmp_path: Path
) -> None:
    """Rows that cannot be verified give no other gradient."""
    data = write_rows(tmp_path / "none.parquet", [with_truth(r, UNVERIFIABLE) for r in rows])
    stage = rlvr_stage(data, entropy_coef=0.1, steps=6, weight_decay=0.0)
    entropy = run(stage, talker, tmp_path / "run").column("entropy")
    assert entropy[-1] > 2 * entropy[0]


def test_rows_that_cannot_be_verified_teach_nothing(
    talker: Path, rows: list[Row], tmp_path: Path
) -> None:
    """Although some responses have the format and others lack it."""
    data = write_rows(tmp_path / "none.parquet", [with_truth(r, UNVERIFIABLE) for r in rows])
    finished = run(rlvr_stage(data, weight_decay=0.0), talker, tmp_path / "run")
    assert 0 < min(finished.column("format_rate")) < 1
    assert unmoved(finished, talker)


def test_one_unverifiable_row_leaves_the_other_groups_their_advantages(
    talker: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = [with_truth(row, UNVERIFIABLE if i % 2 else "1") for i, row in enumerate(rows)]
    data = write_rows(tmp_path / "mixed.parquet", mixed)
    seen = watch_updates(monkeypatch)
    run(rlvr_stage(data), talker, tmp_path / "run")
    teaching = {True: 0, False: 0}
    for update in seen:
        for group, values in zip(update.groups, update.advantages, strict=True):
            is_usable = group.draw.row.truths == ("1",)
            teaching[is_usable] += bool(values.any())
    assert teaching[False] == 0
    assert teaching[True] > 3


def test_the_length_penalty_is_taken_off_the_reward(
    talker: Path, prompts: DataSource, tmp_path: Path
) -> None:
    plain, punished = (
        run(
            rlvr_stage(prompts, steps=1, batch_size=8, overlong=overlong),
            talker,
            tmp_path / str(bool(overlong)),
        )
        for overlong in (None, Overlong(buffer_tokens=40, penalty_factor=0.5))
    )
    # The zone begins at 0 tokens here, so that the penalty is linear over all lengths.
    length = plain.column("response_tokens")[0]
    difference = plain.column("reward")[0] - punished.column("reward")[0]
    assert difference == pytest.approx(0.5 * length / 40)
