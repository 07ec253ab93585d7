"""The text tower's weights, fused for decoding: one matrix product where the layers have
several."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
    down: Tensor


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


def snapshot(model: Any, dtype: torch.dtype) -> DecoderWeights:
    """Fuse the current weights, matrices in `dtype`; cheap against decoding a batch."""
    text = model.model.language_model
    config = text.config
    return DecoderWeights(
        layers=tuple(_layer(layer, config, dtype) for layer in text.layers),
        embedding=text.embed_tokens.weight,
        final_norm=text.norm.weight,
        head=model.lm_head.weight.to(dtype),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        dim=config.head_dim,
        eps=config.rms_norm_eps,
    )


def _layer(layer: Any, config: Any, dtype: torch.dtype) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    q_norm = attention.q_norm.weight.expand(config.num_attention_heads, -1)
    k_norm = attention.k_norm.weight.expand(config.num_key_value_heads, -1)
    return LayerWeights(
        input_norm=layer.input_layernorm.weight,
        qkv=torch.cat(
            [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        ).to(dtype),
        qk_norm=torch.cat([q_norm, k_norm]),
        output=attention.o_proj.weight.to(dtype),
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).to(dtype),
        down=mlp.down_proj.weight.to(dtype),
    )
