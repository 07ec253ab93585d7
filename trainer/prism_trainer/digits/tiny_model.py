"""A Qwen3-VL of 0.46 M parameters with random weights: small enough to learn on one CPU core."""

from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from prism_trainer.digits.processor import MERGE, PATCH_PX, TEMPORAL_PATCH
from prism_trainer.digits.tokenizer import MAX_LENGTH

HIDDEN = 64
INITIALIZER_RANGE = 0.1
"""Published models use 0.02, which at this width leaves the vision path untrained."""

TEXT: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": MAX_LENGTH,
    "initializer_range": INITIALIZER_RANGE,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        # Time, height, width; together half the head.
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
}
VISION: dict[str, Any] = {
    "depth": 1,
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_heads": 2,
    "patch_size": PATCH_PX,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": TEMPORAL_PATCH,
    "out_hidden_size": HIDDEN,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0],
    "initializer_range": INITIALIZER_RANGE,
}


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3VLForConditionalGeneration:
    """The model in float32, a function of the seed; leaves torch's global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(build_config(tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """The architecture, fitted to the tokenizer."""
    ids = tokenizer.get_vocab()
    text = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    return Qwen3VLConfig(
        text_config={**TEXT, **text},
        vision_config=dict(VISION),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        dtype="float32",
    )
