"""Tiny Qwen3-VL models with prompts and groups for them, and what transformers itself says of them.

The models have what the digits' model lacks: several key heads, deep vision features at two levels,
and no parameter that is still 0 or 1 and could be forgotten unnoticed.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from prism_trainer.distributed import Ranks
from prism_trainer.engine.attention import use_packed_attention
from prism_trainer.engine.packing import Group, Prompt, Tokens
from prism_trainer.engine.policy import Policy
from prism_trainer.engine.rope import Grid, mrope_positions

IMAGE, VIDEO, VISION_START, VISION_END = 60, 61, 62, 63
VOCABULARY = 64
WORDS = 60
"""Tokens below are ordinary ones."""
MERGE = 2
PATCH_VALUES = 3 * 2 * 4 * 4

TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
    "initializer_range": 0.2,
}


EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}


def build_model(
    seed: int = 0,
    vocabulary: int = VOCABULARY,
    dtype: torch.dtype = torch.float32,
    mixture: bool = False,
    tied: bool = False,
    text: dict[str, Any] | None = None,
) -> Any:
    """A model with random weights and transformers' own attention; a function of the seed.

    `text`: what differs in the language model.
    """
    experts = EXPERTS if mixture else {}
    own = {"vocab_size": vocabulary, "tie_word_embeddings": tied, **(text or {})}
    config_of, model_of = {
        False: (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
        True: (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration),
    }[mixture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = config_of(
            text_config={**TEXT, **experts, **own},
            vision_config=dict(VISION),
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=VISION_START,
            vision_end_token_id=VISION_END,
            tie_word_embeddings=tied,
        )
        model: Any = model_of(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() < 2:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    model.set_attn_implementation("sdpa")
    return model.to(dtype).eval()


def packed(model: Any) -> Any:
    """A copy with the trainer's attention."""
    twin = copy.deepcopy(model)
    use_packed_attention(twin)
    return twin


def build_policy(model: Any, max_tokens: int = 100_000) -> Policy:
    """A policy on a packed copy of the model."""
    return Policy(packed(model), Ranks(), "fp32", max_tokens)


@dataclass(frozen=True)
class Shape:
    """What a group looks like: images of its prompt, words around them, response lengths."""

    grids: tuple[Grid, ...]
    words: int
    responses: tuple[int, ...]


MIXED: tuple[Shape, ...] = (
    Shape(((1, 2, 6),), 5, (9, 3, 14)),
    Shape((), 4, (7, 2)),
    Shape(((1, 4, 6), (1, 2, 2)), 9, (6,)),
    Shape(((1, 8, 4),), 1, (1, 17, 5, 5)),
    Shape((), 12, (11,)),
)
"""Text and images, one and several per prompt, grids of one, two and four merged rows, groups of
one to four responses."""


def build_prompt(
    rng: np.random.Generator, grids: Sequence[Grid], words: int, vocabulary: int = WORDS
) -> Prompt:
    """Random words with the images in between, each between its marks."""
    parts: list[Tokens] = [rng.integers(0, vocabulary, 2)]
    for grid in grids:
        pads = np.full(int(np.prod(grid)) // MERGE**2, IMAGE)
        parts += [np.array([VISION_START]), pads, np.array([VISION_END])]
        parts.append(rng.integers(0, vocabulary, 1))
    token_ids = np.concatenate([*parts, rng.integers(0, vocabulary, words)]).astype(np.int64)
    patches = sum(int(np.prod(grid)) for grid in grids)
    pixels = torch.from_numpy(rng.standard_normal((patches, PATCH_VALUES)))
    positions = mrope_positions(token_ids, grids, IMAGE, MERGE)
    return Prompt(
        token_ids, positions, token_ids == IMAGE, pixels.float() if grids else None, tuple(grids)
    )


def build_groups(shapes: Sequence[Shape] = MIXED, seed: int = 0) -> list[Group]:
    """Groups of random tokens."""
    rng = np.random.default_rng(seed)
    return [
        Group(
            build_prompt(rng, shape.grids, shape.words),
            tuple(rng.integers(0, WORDS, length) for length in shape.responses),
        )
        for shape in shapes
    ]


def model_inputs(prompt: Prompt, continuation: Tokens | None = None) -> dict[str, Tensor]:
    """One unpadded sample as transformers' model takes it."""
    tail = np.empty(0, dtype=np.int64) if continuation is None else continuation
    token_ids = torch.from_numpy(np.concatenate([prompt.token_ids, tail]))[None]
    types = torch.zeros_like(token_ids, dtype=torch.int32)
    types[0, : len(prompt.is_image)] = torch.from_numpy(prompt.is_image).int()
    inputs = {"input_ids": token_ids, "mm_token_type_ids": types}
    if prompt.pixel_values is not None:
        inputs["pixel_values"] = prompt.pixel_values
        inputs["image_grid_thw"] = torch.tensor(prompt.grids)
    return inputs


def reference_logits(model: Any, prompt: Prompt, continuation: Tokens) -> Tensor:
    """transformers' logits of one sample, [tokens, vocabulary]."""
    model.model.rope_deltas = None
    logits: Tensor = model(**model_inputs(prompt, continuation)).logits[0]
    return logits


def reference_logprobs(model: Any, groups: Sequence[Group], temperature: float = 1.0) -> Tensor:
    """transformers' log-probability of every response token, sample by sample, [targets]."""
    parts = []
    for group in groups:
        for continuation in group.continuations:
            logits = reference_logits(model, group.prompt, continuation)[
                len(group.prompt.token_ids) - 1 : -1
            ]
            targets = torch.from_numpy(continuation)[:, None]
            parts.append((logits / temperature).log_softmax(-1).gather(1, targets).squeeze(1))
    return torch.cat(parts)


def gradients_of(model: Any, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Gradient of a loss for every parameter by name; zeros for those it does not reach."""
    model.zero_grad()
    loss().backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def relative_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Per tensor, the norm of the difference over the norm of the second."""
    assert ours.keys() == theirs.keys()
    return {
        name: float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-12))
        for name in theirs
    }


def within(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-3) -> bool:
    """Equal, each tensor on its own scale; what is next to 0 on the scale of the largest."""
    sizes = {name: float(gradient.norm()) for name, gradient in theirs.items()}
    floor = 0.01 * max(sizes.values())
    return all(
        difference * sizes[name] < tolerance * max(sizes[name], floor)
        for name, difference in relative_difference(ours, theirs).items()
    )
