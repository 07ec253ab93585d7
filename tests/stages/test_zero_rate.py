"""A learning rate next to zero leaves everything where it was, step after step: whatever moves then
is not learning but an error (drift between sampling and training, a wrong denominator, dropout)."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from prism_api.reinforcement import Algorithm, RolloutCorrection
from prism_api.resources import DataSource
from prism_trainer.generation.generator import InProcessGenerator
from prism_trainer.rollouts import Completion
from rlvr_builders import run
from stage_builders import (
    Finished,
    Row,
    align_stage,
    demonstrations,
    read_rows,
    rlvr_stage,
    run_to_end,
    sft_stage,
    stage_config,
    write_rows,
)

RATE = 1e-30
"""The smallest that counts as one; no weight is small enough to be moved by it."""


def unmoved(finished: Finished, start: Path) -> bool:
    before = load_file(start / "model.safetensors")
    return all(torch.equal(tensor, before[name]) for name, tensor in finished.weights().items())


def test_supervised_losses_on_the_same_samples_stay_the_same(
    digits_folder: Path, talker: Path, tmp_path: Path
) -> None:
    """Every batch is all of the data, in another order and in packs cut elsewhere."""
    data = write_rows(tmp_path / "few.parquet", demonstrations(read_rows(digits_folder, 16)))
    stage = sft_stage(data, steps=5, batch_size=16, learning_rate=RATE, max_tokens_per_pack=300)
    finished = run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    assert unmoved(finished, talker)
    for name in ("loss", "grad_norm"):
        values = finished.column(name)
        assert len(values) == 5
        assert values == pytest.approx([values[0]] * 5, rel=1e-5)


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
def test_ratios_divergence_and_gap_stay_zero_with_every_algorithm(
    talker: Path, prompts: DataSource, tmp_path: Path, algorithm: Any
) -> None:
    """Over several batches of two mini-batches, so that every pass is compared with another one."""
    stage = rlvr_stage(
        prompts,
        algorithm=algorithm,
        generation_batch_size=8 if algorithm == "dapo" else None,
        learning_rate=RATE,
        mini_batches=2,
        kl_coef=0.1,
        clip_low=1e-3,
        clip_high=1e-3,
        rollout_correction=RolloutCorrection(level="sequence", min_weight=0.99, max_weight=1.01),
    )
    finished = run(stage, talker, tmp_path)
    assert unmoved(finished, talker)
    assert finished.column("kl") == pytest.approx([0.0] * 4, abs=1e-9)
    assert finished.column("clip_fraction") == [0.0] * 4
    assert finished.column("rollout_cut_fraction") == [0.0] * 4
    assert finished.column("rollout_gap_max") == pytest.approx([0.0] * 4, abs=1e-4)
    assert min(finished.column("grad_norm")) > 0, "there was something to learn"


def test_neither_player_of_the_game_moves(
    talker: Path, teachers: DataSource, tmp_path: Path
) -> None:
    stage = align_stage(
        teachers,
        learning_rate=RATE,
        discriminator={
            "learning_rate": RATE,
            "warmup": {"steps": 1, "batch_size": 8, "learning_rate": RATE},
        },
    )
    finished = run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    assert unmoved(finished, talker)
    steps = sorted(finished.attempt.glob("step-*"))
    first, last = (load_file(path / "discriminator/model.safetensors") for path in steps)
    assert first.keys() == last.keys()
    assert all(torch.equal(tensor, last[name]) for name, tensor in first.items())
    assert min(finished.column("discriminator_grad_norm")) > 0


def repeat_first_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a prompt is always answered as it was the first time that so many were asked."""
    known: dict[tuple[str, int], list[Completion]] = {}
    inner = InProcessGenerator.generate

    def remembering(self: InProcessGenerator, requests: Any, params: Any) -> list[list[Completion]]:
        keys = [(request.row.id, len(request.seeds)) for request in requests]
        for key, answers in zip(keys, inner(self, requests, params), strict=True):
            known.setdefault(key, answers)
        return [known[key] for key in keys]

    monkeypatch.setattr(InProcessGenerator, "generate", remembering)


def flat(finished: Finished, phase: str) -> Row:
    """Every metric of a phase, which must be the same in all of its steps."""
    rows = [row for row in finished.history() if row.pop("phase") == phase]
    assert [row.pop("step") for row in rows] == [1, 2, 3]
    for row in rows:
        assert row == pytest.approx(rows[0], rel=1e-5, abs=1e-7)
    return rows[0]


def test_every_metric_of_the_game_on_the_same_responses_stays_the_same(
    talker: Path, teachers: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every batch is all of the data, in another order and in packs cut elsewhere; the warm-up has
    made up the discriminator's mind."""
    repeat_first_answers(monkeypatch)
    stage = align_stage(
        teachers,
        batch_size=16,
        learning_rate=RATE,
        max_tokens_per_pack=300,
        discriminator={"head_dropout": 0.0, "learning_rate": RATE},
    )
    finished = run_to_end(stage_config(stage, talker, tmp_path), tmp_path)
    game = flat(finished, "train")
    scores = ("discriminator_gap_caption", "discriminator_gap_reasoning", "student_score")
    assert all(abs(game[name]) > 1e-3 for name in scores)
    assert min(game["discriminator_grad_norm"], game["grad_norm"]) > 0.01, "there was much to learn"
