"""Tiny Qwen3-VL models, dense and MoE, as checkpoints that vLLM serves, and rows of prompts."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from prism_trainer.data.images import ImageRef
from prism_trainer.data.rows import Row
from prism_trainer.digits.processor import build_processor
from prism_trainer.digits.tiny_model import TEXT, VISION
from prism_trainer.digits.tokenizer import build_tokenizer
from prism_trainer.engine.sources import TensorSource, source_of

Kind = Literal["dense", "moe"]
_SPREAD = 0.2
"""Published models start at 0.02, where all tiny ones answer alike."""
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}


def build_served_model(kind: Kind, seed: int) -> PreTrainedModel:
    """A model of the digits' vocabulary with no parameter at 0 or 1; a function of the seed."""
    tokenizer = build_tokenizer()
    ids = tokenizer.get_vocab()
    text = {
        **TEXT,
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": _SPREAD,
        **(_EXPERTS if kind == "moe" else {}),
    }
    vision = {**VISION, "depth": 2, "deepstack_visual_indexes": [0, 1]}
    config_of, model_of = {
        "dense": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
        "moe": (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration),
    }[kind]
    config = config_of(
        text_config=text,
        vision_config={**vision, "initializer_range": _SPREAD},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model: PreTrainedModel = model_of(config)
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(_SPREAD * torch.randn_like(parameter))
    return model.eval()


def save_served_model(model: PreTrainedModel, folder: Path) -> Path:
    """The published layout, written by hand: experts as [experts, in, out]; a second end token, as
    chat models have it, that is none to the trainer."""
    model.save_pretrained(folder)
    processor = build_processor(build_tokenizer())
    processor.save_pretrained(folder)
    ends = [processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id]
    GenerationConfig(eos_token_id=ends).save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors: dict[str, Tensor] = load_file(path)
    for name, tensor in tensors.items():
        if ".mlp.experts." in name:
            assert tensor.dim() == 3
            tensors[name] = tensor.transpose(1, 2).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def weights_of(model: PreTrainedModel) -> dict[str, TensorSource]:
    """As a policy gives them."""
    return {name: source_of(parameter) for name, parameter in model.named_parameters()}


def picture_bytes(seed: int, width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """A file with random pixels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def build_row(name: str, turns: Sequence[tuple[str, str]], images: Sequence[bytes] = ()) -> Row:
    """A prompt of (role, content) turns."""
    messages = tuple({"role": role, "content": content} for role, content in turns)
    return Row(name, name, messages, tuple(ImageRef(image, None) for image in images))


def mixed_rows() -> list[Row]:
    """Text, one image, two images of other sizes, several turns with a system message."""
    return [
        build_row("text", [("user", "What is 3 plus 4?")]),
        build_row("image", [("user", "<image>What is the sum?")], [picture_bytes(1, 96, 64)]),
        build_row(
            "two images",
            [("user", "First <image> then <image>: which is larger?")],
            [picture_bytes(2, 64, 64), picture_bytes(3, 160, 32)],
        ),
        build_row(
            "turns",
            [
                ("system", "You see digits.\n"),
                ("user", "<image> Hello"),
                ("assistant", " 1 2 "),
                ("user", "and now?"),
            ],
            [picture_bytes(4, 32, 96)],
        ),
    ]
