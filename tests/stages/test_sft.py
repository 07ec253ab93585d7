"""Supervised fine-tuning in a few steps, through run_stage."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from prism_api.errors import DataError
from prism_api.resources import DataSource, Evaluation
from prism_trainer.data.pictures import load_image
from prism_trainer.data.rows import Dataset
from stage_builders import read_rows, run_to_end, sft_stage, stage_config, with_truth, write_rows


def reference_loss(model_folder: Path, data: DataSource) -> float:
    """transformers' own encoding and cross-entropy, per token over the responses of all rows."""
    processor = AutoProcessor.from_pretrained(model_folder)
    model: Any = Qwen3VLForConditionalGeneration.from_pretrained(model_folder)
    total = count = 0.0
    dataset = Dataset([data], "response")
    for row in map(dataset.__getitem__, range(len(dataset))):
        question = row.messages[0]["content"].removeprefix("<image>")
        image = load_image(row.images[0], row.origin)
        user = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        assistant = [{"type": "text", "text": row.response}]
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        whole, prompt = (
            processor.apply_chat_template(
                part,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=len(part) == 1,
            )
            for part in (turns, turns[:1])
        )
        labels = whole["input_ids"].clone()
        labels[:, : prompt["input_ids"].shape[1]] = -100
        # The template ends a turn with a newline behind the end token, which is not learned.
        assert processor.tokenizer.decode(labels[0, -1:]) == "\n"
        labels[:, -1] = -100
        with torch.no_grad():
            loss = model(**whole, labels=labels).loss
        tokens = int((labels != -100).sum())
        total, count = total + float(loss) * tokens, count + tokens
    return total / count


def test_the_first_loss_is_transformers_cross_entropy_over_the_batch(
    digits_folder: Path, demos: DataSource, tmp_path: Path
) -> None:
    rows = pq.read_table(demos.uri.removeprefix("file://")).slice(0, 8).to_pylist()
    data = write_rows(tmp_path / "eight.parquet", rows)
    model = digits_folder / "model"
    # Packs of 150 tokens: the loss is the mean over all tokens however they are packed.
    stage = sft_stage(data, steps=1, batch_size=8, max_tokens_per_pack=150)
    finished = run_to_end(stage_config(stage, model, tmp_path), tmp_path)
    assert finished.column("loss")[0] == pytest.approx(reference_loss(model, data), rel=1e-5)


def test_the_loss_falls(digits_folder: Path, demos: DataSource, tmp_path: Path) -> None:
    stage = sft_stage(demos, steps=20)
    finished = run_to_end(stage_config(stage, digits_folder / "model", tmp_path), tmp_path)
    losses = finished.column("loss")
    assert len(losses) == 20
    assert losses[-1] < 0.2 * losses[0]
    assert finished.result()["steps"] == 20


def test_a_frozen_vision_tower_stays_as_it_was_and_the_rest_moves(
    digits_folder: Path, demos: DataSource, tmp_path: Path
) -> None:
    stage = sft_stage(demos, steps=2, train_vision_tower=False)
    finished = run_to_end(stage_config(stage, digits_folder / "model", tmp_path), tmp_path)
    before = load_file(digits_folder / "model" / "model.safetensors")
    for name, tensor in finished.weights().items():
        # A word that never occurs keeps its embedding; every other matrix moves.
        if "embed_tokens" not in name:
            assert torch.equal(tensor, before[name]) == (".visual." in name), name


def test_a_rate_next_to_zero_leaves_weights_and_loss_as_they_were(
    digits_folder: Path, demos: DataSource, tmp_path: Path
) -> None:
    """Drift at learning rate 0 is a known sign of a leak; one batch is the whole data here."""
    stage = sft_stage(demos, steps=3, batch_size=64, learning_rate=1e-30)
    finished = run_to_end(stage_config(stage, digits_folder / "model", tmp_path), tmp_path)
    before = load_file(digits_folder / "model" / "model.safetensors")
    drift = [(t - before[name]).abs().max() for name, t in finished.weights().items()]
    assert max(drift) < 1e-28, "only a bias that was exactly 0 can move at all"
    assert finished.column("loss") == pytest.approx([finished.column("loss")[0]] * 3, rel=1e-6)
    assert finished.column("grad_norm") == pytest.approx(
        [finished.column("grad_norm")[0]] * 3, rel=1e-5
    )


def test_epochs_are_passes_over_the_data(
    digits_folder: Path, demos: DataSource, tmp_path: Path
) -> None:
    stage = sft_stage(demos, steps=None, epochs=2, batch_size=32)
    finished = run_to_end(stage_config(stage, digits_folder / "model", tmp_path), tmp_path)
    assert len(finished.history()) == 2 * 64 // 32


def test_samples_beyond_a_limit_are_left_out_and_counted(
    digits_folder: Path, demos: DataSource, tmp_path: Path
) -> None:
    rows = pq.read_table(demos.uri.removeprefix("file://")).slice(0, 8).to_pylist()
    question, answer = 0, 1
    for row, turn in ((0, question), (1, question), (2, answer)):
        rows[row]["messages"][turn]["content"] += " 1" * 80
    model = digits_folder / "model"
    losses = []
    for name, kept, dropped in (("all", rows, 3), ("short", rows[3:], 0)):
        data = write_rows(tmp_path / f"{name}.parquet", kept)
        stage = sft_stage(data, steps=1, batch_size=len(kept))
        finished = run_to_end(stage_config(stage, model, tmp_path / name), tmp_path / name)
        assert finished.column("dropped_samples") == [dropped]
        losses += finished.column("loss")
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("field", ["maxPromptTokens", "maxResponseTokens"])
def test_a_batch_in_which_everything_is_too_long_is_bad_data(
    digits_folder: Path, demos: DataSource, tmp_path: Path, field: str
) -> None:
    limits = {"maxPromptTokens": "max_prompt_tokens", "maxResponseTokens": "max_response_tokens"}
    stage = sft_stage(demos, **{limits[field]: 5})
    with pytest.raises(DataError, match=rf"demos\.parquet row \d+: \d+ tokens exceed {field} 5"):
        run_to_end(stage_config(stage, digits_folder / "model", tmp_path), tmp_path)


def test_the_result_carries_a_greedy_evaluation(
    digits_folder: Path, talker: Path, demos: DataSource, tmp_path: Path
) -> None:
    rows = [with_truth(row, "1") for row in read_rows(digits_folder, 40)]
    evaluation = Evaluation(
        data=write_rows(tmp_path / "heldout.parquet", rows), batch_size=16, max_response_tokens=40
    )
    stage = sft_stage(demos, steps=1, learning_rate=1e-30)
    config = stage_config(stage, talker, tmp_path, evaluation=evaluation)
    measured = run_to_end(config, tmp_path).result()["evaluation"]
    assert measured["samples"] == 40
    assert measured["formatRate"] > 0.8
    assert measured["accuracy"] == measured["correct"] / 40
    assert 20 < measured["meanResponseTokens"] < 30
