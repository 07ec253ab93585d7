"""RLVR in a few steps: rewards rise, and every switch does what it says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prism_api.errors import DataError
from prism_api.resources import DataSource
from prism_api.stages import Overlong, RlvrStage
from prism_trainer import distributed
from prism_trainer.distributed import Ranks
from prism_trainer.rewards.reward import RewardWeights, score
from prism_trainer.stages.rlvr import RlvrProgram
from prism_trainer.stages.run import build_context, build_program
from prism_trainer.stages.sampling import PolicyUpdate, SampledGroup
from stage_builders import (
    UNVERIFIABLE,
    Finished,
    Row,
    rlvr_stage,
    run_to_end,
    stage_config,
    with_truth,
    write_rows,
)


def run(stage: RlvrStage, talker: Path, folder: Path) -> Finished:
    folder.mkdir(parents=True, exist_ok=True)
    return run_to_end(stage_config(stage, talker, folder), folder)


def unmoved(finished: Finished, talker: Path) -> bool:
    before = load_file(talker / "model.safetensors")
    return all(torch.equal(tensor, before[name]) for name, tensor in finished.weights().items())


@pytest.mark.parametrize("algorithm", ["grpo", "gspo"])
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
    assert run(stage, talker, tmp_path).column("clip_fraction") == [0.0] * 4


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
    steps: list[tuple[int, int]] = []
    inner = PolicyUpdate.run

    def watching(self: PolicyUpdate, groups: Any, advantages: Any, step: int, old: Any) -> Any:
        steps.append((step, len(groups)))
        assert (old is not None) == (len(groups) < 4)
        return inner(self, groups, advantages, step, old)

    monkeypatch.setattr(PolicyUpdate, "run", watching)
    run(rlvr_stage(prompts, steps=2, mini_batches=2), talker, tmp_path / "two")
    run(rlvr_stage(prompts, steps=2), talker, tmp_path / "one")
    assert steps == [(0, 2), (1, 2), (2, 2), (3, 2), (0, 4), (1, 4)]


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
    for groups, advantages in seen:
        for group, values in zip(groups, advantages, strict=True):
            is_usable = group.row.truths == ("1",)
            teaching[is_usable] += bool(values.any())
    assert teaching[False] == 0
    assert teaching[True] > 3


Update = tuple[Sequence[SampledGroup], Sequence[torch.Tensor]]


def watch_updates(monkeypatch: pytest.MonkeyPatch) -> list[Update]:
    """Groups and advantages of every policy update, which goes on as usual."""
    seen: list[Update] = []
    inner = PolicyUpdate.run

    def watching(
        self: PolicyUpdate, groups: Any, advantages: Any, step: int, old: Any = None
    ) -> Any:
        seen.append((groups, advantages))
        return inner(self, groups, advantages, step, old)

    monkeypatch.setattr(PolicyUpdate, "run", watching)
    return seen


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


def is_informative(group: SampledGroup) -> bool:
    weights = RewardWeights(0.8, 0.2)
    return len({score(text, group.row.truths, weights).accuracy for text in group.texts}) > 1


def dapo_stage(data: DataSource, **changes: Any) -> RlvrStage:
    settings = {"algorithm": "dapo", "batch_size": 2, "generation_batch_size": 8, **changes}
    return rlvr_stage(data, **settings)


@pytest.fixture
def half_hopeless(rows: list[Row], tmp_path: Path) -> DataSource:
    """Every other prompt has a gold answer that the policy never gives."""
    hopeless = [with_truth(row, "7777") if i % 2 else row for i, row in enumerate(rows)]
    return write_rows(tmp_path / "half.parquet", hopeless)


def test_dynamic_sampling_trains_on_informative_groups_only(
    talker: Path, half_hopeless: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_updates(monkeypatch)
    finished = run(dapo_stage(half_hopeless), talker, tmp_path / "run")
    assert [len(groups) for groups, _ in seen] == [2] * 4
    for groups, advantages in seen:
        assert all(is_informative(group) for group in groups)
        assert all(values.any() for values in advantages)
    assert finished.column("informative_groups")[0] < 1


def test_without_dynamic_sampling_groups_that_teach_nothing_come_along(
    talker: Path, half_hopeless: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_updates(monkeypatch)
    stage = rlvr_stage(half_hopeless, algorithm="dapo", dynamic_sampling=False, batch_size=8)
    run(stage, talker, tmp_path / "run")
    assert not all(is_informative(group) for groups, _ in seen for group in groups)


def program_of(stage: RlvrStage, talker: Path, folder: Path) -> RlvrProgram:
    config = stage_config(stage, talker, folder)
    program = build_program(build_context(config, Ranks(), folder))
    assert isinstance(program, RlvrProgram)
    return program


def test_the_surplus_is_used_before_anything_new_is_sampled(
    talker: Path, prompts: DataSource, tmp_path: Path
) -> None:
    distributed.join(1)
    program = program_of(dapo_stage(prompts, learning_rate=1e-30), talker, tmp_path)
    program.iterate("train", 0)
    first = program.facts()
    surplus = [group["row"] for group in first["surplus"][0]]
    assert first["position"] == 8, "one round of eight prompts"
    assert len(surplus) >= 2
    program.iterate("train", 1)
    second = program.facts()
    assert second["position"] == 8, "nothing new"
    assert [group["row"] for group in second["surplus"][0]] == surplus[2:]


def test_the_surplus_survives_a_resume(talker: Path, prompts: DataSource, tmp_path: Path) -> None:
    distributed.join(1)
    stage = dapo_stage(prompts, learning_rate=1e-30)
    before, after = (program_of(stage, talker, tmp_path) for _ in range(2))
    before.iterate("train", 0)
    after.load_facts(before.facts())
    assert after.facts() == before.facts()
    assert before.iterate("train", 1) == after.iterate("train", 1)
    assert after.facts() == before.facts()


def test_data_without_any_informative_group_is_refused_after_some_rounds(
    talker: Path, rows: list[Row], tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "hopeless.parquet", [with_truth(r, "7777") for r in rows])
    stage = dapo_stage(data, max_generation_rounds=2)
    with pytest.raises(DataError, match="after 2 rounds only 0 of 2 prompts"):
        run(stage, talker, tmp_path / "run")
