"""Alignment in a few steps: the game is played, and the verifier is nowhere near it."""

from pathlib import Path
from typing import Any

import grimp
import pytest
import torch
from safetensors.torch import load_file

from prism_api.errors import DataError
from prism_api.resources import DataSource, ModelSource
from prism_api.stages import Warmup
from prism_api.uris import file_uri
from prism_trainer.advantages import alignment_advantages
from prism_trainer.discriminator.discriminator import Discriminator
from rlvr_builders import watch_updates
from stage_builders import (
    Row,
    align_stage,
    answer_text,
    run_to_end,
    stage_config,
    teacher_parts,
    with_long_prompt,
    with_text,
    with_truth,
    write_rows,
)


def test_alignment_imports_no_verifier_and_no_reward_by_any_path() -> None:
    graph = grimp.build_graph("prism_trainer")
    players = {"prism_trainer.stages.align", *graph.find_descendants("prism_trainer.discriminator")}
    judges = {
        "prism_trainer.rewards.verifier",
        "prism_trainer.rewards.reward",
        "prism_trainer.stages.rlvr",
    }
    assert judges <= graph.modules
    for player in players:
        assert not graph.find_upstream_modules(player) & judges, player


@pytest.mark.parametrize("routing", ["learned", "segment"])
def test_other_gold_answers_change_no_bit_of_alignment(
    talker: Path, rows: list[Row], teachers: DataSource, tmp_path: Path, routing: str
) -> None:
    wrong = [teacher_parts(with_truth(row, "nothing of the sort")) for row in rows]
    lied = write_rows(tmp_path / "lied.parquet", wrong)
    tensors = []
    for name, data in (("told", teachers), ("lied", lied)):
        folder = tmp_path / name
        folder.mkdir()
        stage = align_stage(data, steps=1, discriminator={"routing": routing})
        tensors.append(run_to_end(stage_config(stage, talker, folder), folder).tensors())
    assert tensors[0] == tensors[1]


def test_the_policy_learns_to_write_as_the_teacher_does(
    talker: Path, teachers: DataSource, tmp_path: Path
) -> None:
    stage = align_stage(
        teachers, steps=20, rollouts_per_prompt=8, learning_rate=3e-4, checkpoint_every_steps=20
    )
    finished = run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    alike = finished.column("identical_segments")
    assert sum(alike[-4:]) / 4 > sum(alike[:4]) / 4 + 0.2
    caption, reasoning, same = (
        finished.column(name, "warmup")[-1]
        for name in (
            "discriminator_accuracy_caption",
            "discriminator_accuracy_reasoning",
            "identical_segments",
        )
    )
    # All that is not the teacher's own text, which is half a right decision.
    told_apart = (caption + reasoning) / 2
    assert told_apart == pytest.approx(1 - same / 2), "the warm-up has taught it the teacher"


def test_warm_up_leaves_the_policy_alone_and_only_the_game_counts_as_steps(
    talker: Path, teachers: DataSource, tmp_path: Path
) -> None:
    stage = align_stage(teachers, steps=1, learning_rate=1e-30)
    finished = run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    before = load_file(talker / "model.safetensors")
    assert all(torch.equal(t, before[name]) for name, t in finished.weights().items())
    assert [row["phase"] for row in finished.history()] == ["warmup"] * 3 + ["train"]
    assert finished.result()["steps"] == 1


def test_rewards_come_from_the_discriminator_before_its_update(
    talker: Path, teachers: DataSource, tmp_path: Path
) -> None:
    """However far the discriminator steps, the policy's step of the same iteration is the same."""
    finished = {}
    for rate in (1e-6, 0.3):
        folder = tmp_path / str(rate)
        folder.mkdir()
        changes = {"learning_rate": rate, "warmup": Warmup(steps=0)}
        stage = align_stage(teachers, steps=1, discriminator=changes)
        finished[rate] = run_to_end(stage_config(stage, talker, folder), folder)
    near, far = finished[1e-6].tensors(), finished[0.3].tensors()
    assert near["discriminator/model.safetensors"] != far["discriminator/model.safetensors"]
    assert near["export/model.safetensors"] == far["export/model.safetensors"]


def test_the_advantages_of_both_forms_reach_the_policy(
    talker: Path, teachers: DataSource, tmp_path: Path
) -> None:
    losses = {}
    for form in ("per_component", "mixed"):
        folder = tmp_path / form
        folder.mkdir()
        stage = align_stage(teachers, steps=1, advantage=form)
        row = run_to_end(stage_config(stage, talker, folder), folder).history()[-1]
        losses[form] = row["loss"]
    assert losses["mixed"] != losses["per_component"]


def test_the_game_is_played_with_the_advantages_of_the_specification(
    talker: Path, teachers: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the stage hands over: scores of the update before, format as validity, its settings."""
    seen: list[tuple[Any, ...]] = []

    def watching(*arguments: Any) -> Any:
        seen.append(arguments)
        return alignment_advantages(*arguments)

    monkeypatch.setattr("prism_trainer.stages.align_advantages.alignment_advantages", watching)
    stage = align_stage(
        teachers, steps=2, caption_weight=0.3, reasoning_weight=0.7, format_penalty=1.25
    )
    finished = run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    assert len(seen) == 2
    for (scores, valid, weights, penalty, form), row in zip(
        seen, finished.history()[3:], strict=True
    ):
        assert scores.shape == (4, 4, 2)
        assert (weights, penalty, form) == ((0.3, 0.7), 1.25, "per_component")
        assert valid.double().mean().item() == pytest.approx(row["format_rate"])
        assert not scores[~valid].any()
        mean = scores[valid].sum() / valid.sum()
        assert mean.item() == pytest.approx(row["student_score"], rel=1e-6)


def test_a_run_can_take_up_the_discriminator_of_one_before(
    talker: Path, teachers: DataSource, tmp_path: Path
) -> None:
    """The checkpoint's folder is a Qwen3-VL-MoE with its score head."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    whole.mkdir()
    half.mkdir()
    stage = align_stage(teachers, steps=1, discriminator={"warmup": Warmup(steps=8, batch_size=8)})
    first = run_to_end(stage_config(stage, talker, whole), whole)
    model = ModelSource(uri=file_uri(first.checkpoint / "discriminator"))
    discriminator = {"model": model, "warmup": Warmup(steps=0)}
    stage = align_stage(teachers, steps=1, discriminator=discriminator, learning_rate=1e-30)
    second = run_to_end(stage_config(stage, talker, half), half)
    before, after = (
        load_file(run.checkpoint / "discriminator/model.safetensors") for run in (first, second)
    )
    assert before.keys() == after.keys()
    # One step of the game at 1e-3 away, not a new start.
    assert max(float((after[n] - t).abs().max()) for n, t in before.items()) < 2e-3


def test_the_supervised_control_learns_the_teachers_texts_without_a_discriminator(
    talker: Path, teachers: DataSource, tmp_path: Path
) -> None:
    stage = align_stage(teachers, steps=8, objective="supervised", learning_rate=1e-3)
    finished = run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    losses = finished.column("loss")
    assert losses[-1] < 0.5 * losses[0]
    assert not any("discriminator" in name for name in finished.tensors())


@pytest.mark.parametrize("objective", ["adversarial", "supervised"])
def test_prompts_that_are_too_long_are_left_out_and_counted(
    talker: Path, rows: list[Row], tmp_path: Path, objective: str
) -> None:
    mixed = [row if i % 4 else with_long_prompt(row) for i, row in enumerate(rows)]
    data = write_rows(tmp_path / "mixed.parquet", [teacher_parts(row) for row in mixed])
    stage = align_stage(data, steps=4, objective=objective)
    finished = run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    assert sum(finished.column("dropped_samples")) == 4, "four batches are the data once"
    if objective == "adversarial":
        assert sum(finished.column("dropped_samples", "warmup")[:2]) == 4


@pytest.mark.parametrize("objective", ["adversarial", "supervised"])
def test_a_teacher_text_beyond_the_context_is_refused_when_it_is_used(
    talker: Path, rows: list[Row], tmp_path: Path, objective: str
) -> None:
    """Where no preflight could count its tokens."""
    long = [with_text(row, "teacher", answer_text(7, 10**40, 1)) for row in rows]
    data = write_rows(tmp_path / "long.parquet", long)
    stage = align_stage(data, objective=objective)
    with pytest.raises(DataError, match=r"long\.parquet row \d+: .* exceeds maxResponseTokens 40"):
        run_to_end(stage_config(stage, talker, tmp_path), tmp_path)


def test_a_row_that_a_batch_holds_twice_has_dropout_of_its_own(
    talker: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[list[int]] = []
    inner = Discriminator.train_on

    def watching(self: Discriminator, comparisons: Any, scored: Any, step: int) -> Any:
        seeds.append([comparison.dropout_seed for comparison in comparisons])
        return inner(self, comparisons, scored, step)

    monkeypatch.setattr(Discriminator, "train_on", watching)
    data = write_rows(tmp_path / "three.parquet", [teacher_parts(row) for row in rows[:3]])
    stage = align_stage(data, steps=1)
    run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    assert [len(batch) for batch in seeds] == [8, 8, 8, 4], "batches beyond the three rows"
    assert all(len(set(batch)) == len(batch) for batch in seeds)


@pytest.mark.parametrize("form", ["per_component", "mixed"])
def test_groups_of_the_same_response_teach_nothing(
    talker: Path,
    teachers: DataSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    """Sampled next to temperature 0, and scored in several packs per group."""
    seen = watch_updates(monkeypatch)
    stage = align_stage(
        teachers,
        steps=1,
        temperature=1e-5,
        max_tokens_per_pack=60,
        advantage=form,
        weight_decay=0.0,
    )
    finished = run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    (update,) = seen
    assert all(len(set(group.texts)) == 1 for group in update.groups)
    assert finished.column("format_rate") == [1.0]
    assert torch.stack(list(update.advantages)).tolist() == [[0.0] * 4] * 4
    before = load_file(talker / "model.safetensors")
    assert all(torch.equal(t, before[name]) for name, t in finished.weights().items())
