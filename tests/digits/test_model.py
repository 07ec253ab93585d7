"""The model folder as a trainer or a rollout server loads it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoProcessor,
    GenerationConfig,
    Qwen3VLForConditionalGeneration,
)

from prism_trainer.digits.tiny_model import build_model
from prism_trainer.digits.tokenizer import build_tokenizer

Row = dict[str, Any]
ReadTable = Callable[[str], list[Row]]


@pytest.fixture(scope="module")
def processor(made: Path) -> Any:
    return AutoProcessor.from_pretrained(made / "model")


@pytest.fixture(scope="module")
def model(made: Path) -> Any:
    return Qwen3VLForConditionalGeneration.from_pretrained(made / "model")


def picture_of(row: Row) -> Image.Image:
    return Image.open(io.BytesIO(row["images"][0]["bytes"]))


def encode(processor: Any, row: Row) -> Any:
    question = row["prompt"][0]["content"].removeprefix("<image>")
    content = [{"type": "image", "image": picture_of(row)}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_the_template_is_chatml_without_a_system_message_of_its_own(processor: Any) -> None:
    image = {"type": "image"}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [image, {"type": "text", "text": "Sum?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "8"}]},
        {"role": "user", "content": "Sure?"},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Sum?<|im_end|>\n"
        "<|im_start|>assistant\n8<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert processor.apply_chat_template(messages[3:]) == "<|im_start|>user\nSure?<|im_end|>\n"


def test_pictures_keep_their_size_and_give_one_token_per_digit(
    processor: Any, read_table: ReadTable
) -> None:
    image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for row in read_table("heldout")[:20]:
        digits = row["teacher_caption"].count("- ")
        encoded = encode(processor, row)
        assert encoded["image_grid_thw"].tolist() == [[1, 2, 2 * digits]]
        assert encoded["pixel_values"].shape == (4 * digits, 3 * 2 * 16 * 16)
        assert int((encoded["input_ids"] == image_id).sum()) == digits


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (256, 256)], ids=str)
def test_pictures_of_several_rows_keep_their_size_too(
    processor: Any, size: tuple[int, int]
) -> None:
    encoded = processor.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")
    assert encoded["image_grid_thw"].tolist() == [[1, size[1] // 16, size[0] // 16]]


def test_prompts_and_responses_are_as_short_as_the_quickstart_plans(
    processor: Any, read_table: ReadTable
) -> None:
    prompts = [encode(processor, row)["input_ids"].shape[1] for row in read_table("heldout")[:150]]
    texts = [row["messages"][1]["content"] + "<|im_end|>" for row in read_table("sft-curated")]
    responses = [len(ids) for ids in processor.tokenizer(texts)["input_ids"]]
    assert np.mean(prompts) == pytest.approx(21, abs=1)
    assert max(prompts) <= 26
    assert np.mean(responses) == pytest.approx(42, abs=1)
    assert max(responses) <= 49


def test_the_model_has_the_planned_size_and_scale(model: Any) -> None:
    assert model.num_parameters() == pytest.approx(0.46e6, rel=0.01)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    # 0.02, the default, would leave the vision path untrained.
    for name in ("model.visual.patch_embed.proj.weight", "lm_head.weight"):
        assert model.get_parameter(name).std().item() == pytest.approx(0.1, rel=0.05)


def test_the_saved_model_ends_its_turns_as_qwen_does(made: Path, processor: Any) -> None:
    tokenizer = processor.tokenizer
    generation = GenerationConfig.from_pretrained(made / "model")
    config = AutoConfig.from_pretrained(made / "model")
    assert generation.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert generation.pad_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert config.text_config.vocab_size == len(tokenizer)
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")


def test_parameters_depend_on_the_seed_alone(model: Any) -> None:
    tokenizer = build_tokenizer()
    before = torch.random.get_rng_state()
    same, other = build_model(tokenizer, 5), build_model(tokenizer, 6)
    assert torch.equal(before, torch.random.get_rng_state())
    name = "lm_head.weight"
    assert torch.equal(model.get_parameter(name), same.get_parameter(name))
    assert not torch.equal(model.get_parameter(name), other.get_parameter(name))


def test_every_parameter_learns_from_one_row(
    model: Any, processor: Any, read_table: ReadTable
) -> None:
    encoded = encode(processor, read_table("heldout")[0])
    loss = model(**encoded, labels=encoded["input_ids"]).loss
    loss.backward()
    assert np.log(361) - 3 < loss.item() < np.log(361) + 3
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    model.zero_grad()
    assert still == []


def test_generation_runs_and_depends_on_the_picture(
    model: Any, processor: Any, read_table: ReadTable
) -> None:
    encoded = encode(processor, read_table("heldout")[0])
    generated = model.generate(**encoded, max_new_tokens=8, do_sample=False)
    assert generated.shape[1] <= encoded["input_ids"].shape[1] + 8
    again = model.generate(**encoded, max_new_tokens=8, do_sample=False)
    assert torch.equal(generated, again)
    with torch.no_grad():
        seen = model(**encoded).logits[0, -1]
        unseen = model(**{**encoded, "pixel_values": -encoded["pixel_values"]}).logits[0, -1]
    assert (seen - unseen).abs().max() > 0.01
