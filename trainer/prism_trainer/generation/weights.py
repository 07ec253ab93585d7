"""The text tower's weights, fused for decoding: one matrix product where the layers have
several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prism_trainer.engine.policy import Policy
from prism_trainer.engine.sources import TensorSource

_TOWER = "model.language_model"


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer."""

    input_norm: Tensor
    qkv: Tensor
    """[(heads + 2 kv_heads) * dim, width]"""
    qk_norm: Tensor
    """[heads + kv_heads, dim]"""
    output: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    """[2 x inner, width], of a mixture [experts, 2 x inner, width]"""
    down: Tensor
    """[width, inner], of a mixture [experts, width, inner]"""
    router: Tensor | None
    """[experts, width] of a mixture"""


@dataclass(frozen=True)
class DecoderWeights:
    """What decoding needs of a Qwen3-VL; a snapshot, made anew after each update."""

    layers: tuple[LayerWeights, ...]
    embedding: Tensor
    final_norm: Tensor
    head: Tensor
    heads: int
    kv_heads: int
    dim: int
    eps: float
    experts_per_token: int


def snapshot(policy: Policy, dtype: torch.dtype) -> DecoderWeights:
    """Fuse the current weights, matrices in `dtype`; whole in each process, which all take part."""
    config = policy.model.config.text_config
    weights = policy.weights()
    layers = range(config.num_hidden_layers)
    embedding = weights[f"{_TOWER}.embed_tokens.weight"].read()
    untied = weights.get("lm_head.weight")
    return DecoderWeights(
        layers=tuple(_layer(f"{_TOWER}.layers.{i}", weights, config, dtype) for i in layers),
        embedding=embedding,
        final_norm=weights[f"{_TOWER}.norm.weight"].read(),
        head=(untied.read() if untied else embedding).to(dtype),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        dim=config.head_dim,
        eps=config.rms_norm_eps,
        experts_per_token=getattr(config, "num_experts_per_tok", 0),
    )


def _layer(
    layer: str, weights: Mapping[str, TensorSource], config: Any, dtype: torch.dtype
) -> LayerWeights:
    def weight(name: str) -> Tensor:
        return weights[f"{layer}.{name}.weight"].read()

    def fused(*names: str) -> Tensor:
        return torch.cat([weight(name).to(dtype) for name in names])

    def of_mixture(name: str) -> Tensor:
        return weights[f"{layer}.mlp.experts.{name}"].read().to(dtype)

    is_mixture = f"{layer}.mlp.gate.weight" in weights
    q_norm = weight("self_attn.q_norm").expand(config.num_attention_heads, -1)
    k_norm = weight("self_attn.k_norm").expand(config.num_key_value_heads, -1)
    return LayerWeights(
        input_norm=weight("input_layernorm"),
        qkv=fused("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        qk_norm=torch.cat([q_norm, k_norm]),
        output=weight("self_attn.o_proj").to(dtype),
        mlp_norm=weight("post_attention_layernorm"),
        gate_up=of_mixture("gate_up_proj") if is_mixture else fused("mlp.gate_proj", "mlp.up_proj"),
        down=of_mixture("down_proj") if is_mixture else weight("mlp.down_proj").to(dtype),
        router=weight("mlp.gate").to(dtype) if is_mixture else None,
    )
