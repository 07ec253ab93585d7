"""A learning rate next to zero leaves everything where it was, step after step: whatever moves then
is not learning but an error (drift between sampling and training, a wrong denominator, dropout)."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from prism_api.reinforcement import Algorithm, RolloutCorrection
from prism_api.resources import DataSource
from rlvr_builders import run
from stage_builders import (
    Finished,
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
