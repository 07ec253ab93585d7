"""The attention function given to transformers' Qwen3-VL: packed, with shared prefixes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from prism_trainer.engine.layout import AttentionLayout, Bucket

NAME = "prism_packed_flash"
"""With "flash" in its name, transformers hands whole packs of images to it instead of looping over
them."""

KeyValueSink = list[tuple[Tensor, Tensor]]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    text_layout: AttentionLayout,
    vision_layout: AttentionLayout | None = None,
    kv_sink: KeyValueSink | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within a pack.

    query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim]; returns [1, tokens,
    heads, dim]. The text tower's keys and values are appended to `kv_sink` (prefill of the
    generator).
    """
    is_text = bool(module.is_causal)
    layout = text_layout if is_text else vision_layout
    assert layout is not None, "a pack with images has a vision layout"
    if is_text and kv_sink is not None:
        kv_sink.append((key[0].transpose(0, 1), value[0].transpose(0, 1)))
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if layout.varlen is not None:
        return _varlen_attention(q, k, v, layout, scaling)[None], None
    outputs = [_bucket_attention(q, k, v, bucket, scaling) for bucket in layout.buckets]
    return torch.cat(outputs).index_select(0, layout.restore_index)[None], None


def _bucket_attention(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, scaling: float) -> Tensor:
    """One padded batch; query heads that share a key head are folded into the query axis."""
    batch, queries = bucket.query_index.shape
    kv_heads, dim = k.shape[1:]
    folded = q.shape[1] // kv_heads
    qb = q.index_select(0, bucket.query_index.flatten())
    qb = qb.view(batch, queries, kv_heads, folded, dim).permute(0, 2, 3, 1, 4)
    kb, vb = (
        x.index_select(0, bucket.key_index.flatten()).view(batch, -1, kv_heads, dim).transpose(1, 2)
        for x in (k, v)
    )
    mask = bucket.mask.repeat(1, 1, folded, 1) if folded > 1 else bucket.mask
    out = scaled_dot_product_attention(
        qb.reshape(batch, kv_heads, folded * queries, dim), kb, vb, attn_mask=mask, scale=scaling
    )
    out = out.view(batch, kv_heads, folded, queries, dim).permute(0, 3, 1, 2, 4)
    return out.reshape(batch * queries, kv_heads * folded, dim)


def _varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scaling: float
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    varlen = layout.varlen
    assert varlen is not None
    if varlen.key_index is not None:
        k, v = k.index_select(0, varlen.key_index), v.index_select(0, varlen.key_index)
    dtype = torch.get_autocast_dtype("cuda")
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    window = (-1, 0) if layout.causal else (-1, -1)
    out = varlen_attn(
        q, k, v, varlen.cu_queries, varlen.cu_keys, varlen.max_queries, varlen.max_keys,
        scale=scaling, window_size=window,
    )  # fmt: skip
    assert isinstance(out, Tensor), "no auxiliary output was asked for"
    return out


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _no_mask)


def use_packed_attention(model: PreTrainedModel) -> None:
    """Switch every tower of a finished model to packed attention.

    Set after construction: the constructor would look for a hub kernel of that name.
    """
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            config._attn_implementation = NAME
