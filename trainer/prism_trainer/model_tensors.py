"""Names and shapes of a Qwen3-VL's tensors, dense or with experts, as its published checkpoints
have them; by arithmetic on the config, no torch.

transformers holds a layer's experts as [experts, out, in] and writes them so; published mixtures
and vLLM have [experts, in, out].
"""

from collections.abc import Iterator, Mapping
from typing import Any

from prism_api.model_shape import num_experts

Shape = tuple[int, ...]

DENSE, MIXTURE = "qwen3_vl", "qwen3_vl_moe"
MODEL_TYPES = (DENSE, MIXTURE)
EXPERT_LAYERS = ("gate_proj", "up_proj", "down_proj")
"""Linear layers of a dense model that a mixture has fused into its experts' tensors."""
LANGUAGE_HEAD = "lm_head.weight"
_TEXT, _VISION = "model.language_model", "model.visual"
_EXPERTS = (".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")


def is_experts(name: str) -> bool:
    """Whether a tensor holds all experts of a layer."""
    return name.endswith(_EXPERTS)


def turns(name: str, shape: Shape) -> bool:
    """Whether a tensor lies otherwise in files than in memory. Experts do, but for square ones:
    transformers tells the layouts apart by the shape alone."""
    return is_experts(name) and shape[1] != shape[2]


def transposed(shape: Shape) -> Shape:
    """Of experts in the other layout."""
    return shape[0], shape[2], shape[1]


def config_problem(config: Mapping[str, Any]) -> str | None:
    """Why a model of this config.json cannot be a policy; none if it can."""
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        return f"its model_type is {kind!r}, not one of {', '.join(map(repr, MODEL_TYPES))}"
    if kind == DENSE:
        return None
    text = config["text_config"]
    if text.get("mlp_only_layers") or text.get("decoder_sparse_step", 1) != 1:
        return "only some of its layers have experts (mlp_only_layers, decoder_sparse_step)"
    width, inner = text["hidden_size"], text["moe_intermediate_size"]
    if width in (inner, 2 * inner):
        # Readers tell the layouts apart by shape alone, tensor by tensor.
        return (
            f"hidden_size {width} and moe_intermediate_size {inner} make experts square, and "
            "which way they lie cannot be told"
        )
    return None


def tensors_of(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Every tensor of a checkpoint; raises KeyError naming what the config lacks."""
    text = config["text_config"]
    result = dict(_text_tensors(text))
    result |= {f"{_VISION}.{name}": shape for name, shape in _vision(config["vision_config"])}
    if not config.get("tie_word_embeddings", False):
        result[LANGUAGE_HEAD] = (text["vocab_size"], text["hidden_size"])
    return result


def _text_tensors(text: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    width = text["hidden_size"]
    yield f"{_TEXT}.embed_tokens.weight", (text["vocab_size"], width)
    yield f"{_TEXT}.norm.weight", (width,)
    for i in range(text["num_hidden_layers"]):
        for name, shape in (*_attention(text), *_mlp(text)):
            yield f"{_TEXT}.layers.{i}.{name}", shape


def _attention(text: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, heads = text["hidden_size"], text["num_attention_heads"]
    dim = text.get("head_dim") or width // heads
    queries, keys = heads * dim, text["num_key_value_heads"] * dim
    yield "self_attn.q_proj.weight", (queries, width)
    yield "self_attn.k_proj.weight", (keys, width)
    yield "self_attn.v_proj.weight", (keys, width)
    yield "self_attn.o_proj.weight", (width, queries)
    yield "self_attn.q_norm.weight", (dim,)
    yield "self_attn.k_norm.weight", (dim,)
    yield "input_layernorm.weight", (width,)
    yield "post_attention_layernorm.weight", (width,)


def _mlp(text: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, experts = text["hidden_size"], num_experts(text)
    if experts:
        inner = text["moe_intermediate_size"]
        yield "mlp.gate.weight", (experts, width)
        yield "mlp.experts.gate_up_proj", (experts, width, 2 * inner)
        yield "mlp.experts.down_proj", (experts, inner, width)
    else:
        inner = text["intermediate_size"]
        yield "mlp.gate_proj.weight", (inner, width)
        yield "mlp.up_proj.weight", (inner, width)
        yield "mlp.down_proj.weight", (width, inner)


def _vision(vision: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    patch = vision["patch_size"]
    yield "patch_embed.proj.weight", (
        width, vision.get("in_channels", 3), vision["temporal_patch_size"], patch, patch
    )  # fmt: skip
    yield "patch_embed.proj.bias", (width,)
    yield "pos_embed.weight", (vision["num_position_embeddings"], width)
    for i in range(vision["depth"]):
        block = f"blocks.{i}"
        yield from _norm(f"{block}.norm1", width)
        yield from _norm(f"{block}.norm2", width)
        yield from _linear(f"{block}.attn.qkv", 3 * width, width)
        yield from _linear(f"{block}.attn.proj", width, width)
        yield from _linear(f"{block}.mlp.linear_fc1", inner, width)
        yield from _linear(f"{block}.mlp.linear_fc2", width, inner)
    wide = width * vision["spatial_merge_size"] ** 2
    mergers = {"merger": width}
    levels = range(len(vision["deepstack_visual_indexes"]))
    mergers |= {f"deepstack_merger_list.{i}": wide for i in levels}
    for merger, normed in mergers.items():
        yield from _norm(f"{merger}.norm", normed)
        yield from _linear(f"{merger}.linear_fc1", wide, wide)
        yield from _linear(f"{merger}.linear_fc2", vision["out_hidden_size"], wide)


def _linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
