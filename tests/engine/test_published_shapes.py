"""The published sizes without weights: on torch's meta device, and by the planner's arithmetic."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

from prism_api.model_shape import PUBLISHED_SHAPES, ModelShape, shape_of
from prism_api.stages import Discriminator as Settings
from prism_api.stages import Lora
from prism_trainer.discriminator.model import discriminator_like
from prism_trainer.distributed import Ranks
from prism_trainer.engine.lora import add_adapters
from prism_trainer.engine.policy import Policy
from prism_trainer.model_tensors import tensors_of
from prism_trainer.models import published
from published_configs import config_of

COUNTS = {"2B": 2_127_532_032, "4B": 4_437_815_808, "8B": 8_767_123_696}
"""2.13, 4.44 and 8.77 billion."""
MIXTURE = replace(
    PUBLISHED_SHAPES["hf://Qwen/Qwen3-VL-8B-Instruct"],
    layers=48,
    hidden=2048,
    intermediate=768,
    heads=32,
    kv_heads=4,
    experts=128,
    experts_per_token=8,
    vision=replace(PUBLISHED_SHAPES["hf://Qwen/Qwen3-VL-8B-Instruct"].vision, out_hidden=2048),
)
"""Qwen3-VL-30B-A3B."""
LINEAR = ("weight", "bias")


def shape_named(size: str) -> ModelShape:
    return PUBLISHED_SHAPES[f"hf://Qwen/Qwen3-VL-{size}-Instruct"]


def published_names(shape: ModelShape) -> Iterator[str]:
    """The tensors of the hub's checkpoints, written out."""
    yield "model.language_model.embed_tokens.weight"
    yield "model.language_model.norm.weight"
    if not shape.tied:
        yield "lm_head.weight"
    for i in range(shape.layers):
        for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"):
            yield f"model.language_model.layers.{i}.self_attn.{part}.weight"
        yield from mlp_names(shape, f"model.language_model.layers.{i}.mlp")
        for part in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.language_model.layers.{i}.{part}.weight"
    yield from vision_names(shape)


def mlp_names(shape: ModelShape, stem: str) -> Iterator[str]:
    if shape.experts:
        yield from (f"{stem}.experts.gate_up_proj", f"{stem}.experts.down_proj")
        yield f"{stem}.gate.weight"
    else:
        yield from (f"{stem}.{part}_proj.weight" for part in ("gate", "up", "down"))


def vision_names(shape: ModelShape) -> Iterator[str]:
    yield "model.visual.pos_embed.weight"
    modules = ["patch_embed.proj"]
    for i in range(shape.vision.depth):
        parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")
        modules += [f"blocks.{i}.{part}" for part in parts]
    mergers = ["merger", *(f"deepstack_merger_list.{i}" for i in range(shape.vision.deepstack))]
    modules += [f"{m}.{part}" for m in mergers for part in ("norm", "linear_fc1", "linear_fc2")]
    yield from (f"model.visual.{module}.{end}" for module in modules for end in LINEAR)


def meta_policy(shape: ModelShape, lora: Lora | None = None) -> Policy:
    model_of = (
        Qwen3VLMoeForConditionalGeneration if shape.experts else Qwen3VLForConditionalGeneration
    )
    with torch.device("meta"):
        model: Any = model_of(config_of(shape))
    if lora is not None:
        add_adapters(model, lora, seed=0)
    return Policy(model, Ranks(device=torch.device("meta")), "fp32", 100)


@pytest.mark.parametrize("size", COUNTS)
def test_counts_and_names_are_the_published_ones(size: str) -> None:
    shape = shape_named(size)
    weights = meta_policy(shape).weights()
    assert sum(torch.Size(w.shape).numel() for w in weights.values()) == COUNTS[size]
    assert set(weights) == set(published_names(shape))


@pytest.mark.parametrize("size", COUNTS)
def test_the_arithmetic_counts_what_torch_counts(size: str) -> None:
    shape = shape_named(size)
    assert shape.parameters == COUNTS[size]
    assert shape_of(config_of(shape).to_dict()) == shape


@pytest.mark.parametrize("shape", [*map(shape_named, COUNTS), MIXTURE], ids=[*COUNTS, "30B-A3B"])
def test_every_tensor_has_the_shape_that_a_files_header_is_held_to(shape: ModelShape) -> None:
    weights = published(meta_policy(shape).weights())
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    assert set(shapes) == set(published_names(shape))
    assert shapes == tensors_of(config_of(shape).to_dict())


def test_the_arithmetic_counts_a_published_mixture() -> None:
    weights = meta_policy(MIXTURE).weights().values()
    count = sum(torch.Size(w.shape).numel() for w in weights)
    assert count == MIXTURE.parameters
    assert round(count / 1e9, 1) == 31.1, "billion, as published"
    assert shape_of(config_of(MIXTURE).to_dict()) == MIXTURE


def test_the_arithmetic_counts_other_experts_and_towers_too() -> None:
    small = replace(shape_named("2B"), layers=3, tied=False)
    small = replace(small, vision=replace(small.vision, depth=5, deepstack=3))
    for experts in (2, 8):
        settings = Settings(num_experts=experts)
        with torch.device("meta"):
            model = discriminator_like(config_of(small), settings)
        assert small.upcycled(experts, 2).parameters == sum(p.numel() for p in model.parameters())


def test_the_upcycled_2b_discriminator_has_the_layout_of_a_published_mixture() -> None:
    settings = Settings()
    shape = shape_named("2B").upcycled(settings.num_experts, settings.experts_per_token)
    with torch.device("meta"):
        model = discriminator_like(config_of(shape_named("2B")), settings)
    parameters = dict(model.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == shape.parameters == 5_298_657_280
    assert tuple(parameters.pop("head.weight").shape) == (1, shape.hidden)
    names = {name.replace("tower.", "model.", 1) for name in parameters}
    assert names == set(published_names(shape))
    # The hub has experts as [experts, inputs, outputs]; transformers keeps them transposed.
    experts = parameters["tower.language_model.layers.0.mlp.experts.gate_up_proj"]
    assert tuple(experts.transpose(1, 2).shape) == (4, shape.hidden, 2 * shape.intermediate)


@pytest.mark.parametrize("modules", [Lora().target_modules, ("q_proj", "down_proj")])
def test_adapters_are_counted_and_leave_the_layout_as_it_is(modules: Any) -> None:
    shape, lora = shape_named("4B"), Lora(rank=8, target_modules=modules)
    policy = meta_policy(shape, lora)
    trained = [w for n, w in policy.trained_weights().items() if ".visual." not in n]
    count = sum(torch.Size(w.shape).numel() for w in trained)
    assert count == shape.lora_parameters(lora.rank, lora.target_modules)
    assert set(policy.weights()) == set(published_names(shape))
