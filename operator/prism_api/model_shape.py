"""Sizes of a Qwen3-VL and how many parameters they make, by arithmetic; no weights, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class VisionShape:
    """The vision tower with its mergers."""

    depth: int
    hidden: int
    intermediate: int
    out_hidden: int
    patch_values: int
    """Numbers of one patch: channels x frames x pixels."""
    positions: int
    merge: int
    """Patches per side that become one token."""
    deepstack: int
    """Layers whose features go into the language model directly."""

    @property
    def block_parameters(self) -> int:
        """Of one layer."""
        h, i = self.hidden, self.intermediate
        return 4 * h * h + 4 * h + 2 * h * i + i + h + 4 * h

    @property
    def outer_parameters(self) -> int:
        """Patch and position embeddings, and mergers."""
        h, wide = self.hidden, self.hidden * self.merge**2
        merger = wide * wide + wide + wide * self.out_hidden + self.out_hidden
        norms = 2 * h + self.deepstack * 2 * wide
        embeddings = self.patch_values * h + h + self.positions * h
        return embeddings + (1 + self.deepstack) * merger + norms

    @property
    def parameters(self) -> int:
        """Of the whole tower."""
        return self.depth * self.block_parameters + self.outer_parameters


@dataclass(frozen=True)
class ModelShape:
    """A Qwen3-VL, dense or with experts."""

    layers: int
    hidden: int
    intermediate: int
    """Of the MLP, or of one expert."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """Whether the head is the embedding."""
    vision: VisionShape
    experts: int = 0
    """0: dense."""
    experts_per_token: int = 1
    has_head: bool = True
    """Whether there is a language-model head; a discriminator has one score instead."""

    @property
    def queries(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all key heads."""
        return self.kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Of one layer of the language model."""
        attention = 2 * self.hidden * (self.queries + self.keys) + 2 * self.head_dim
        mlp = 3 * self.hidden * self.intermediate
        if self.experts:
            mlp = self.experts * (mlp + self.hidden)
        return attention + mlp + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Of the tokens' embedding."""
        return self.vocabulary * self.hidden

    @property
    def outer_parameters(self) -> int:
        """Everything outside the layers of both towers."""
        embedding = self.embedding_parameters
        head = embedding * (not self.tied) if self.has_head else self.hidden
        return embedding + head + self.hidden + self.vision.outer_parameters

    @property
    def parameters(self) -> int:
        """All of them, tied ones once."""
        blocks = self.vision.depth * self.vision.block_parameters
        return self.layers * self.layer_parameters + blocks + self.outer_parameters

    def upcycled(self, experts: int, experts_per_token: int) -> "ModelShape":
        """The discriminator made of this model."""
        return replace(self, experts=experts, experts_per_token=experts_per_token, has_head=False)

    def lora_parameters(self, rank: int, modules: tuple[str, ...]) -> int:
        """Of the adapters of these linear layers."""
        h, i = self.hidden, self.intermediate
        ends = {
            "q_proj": h + self.queries,
            "k_proj": h + self.keys,
            "v_proj": h + self.keys,
            "o_proj": self.queries + h,
            "gate_proj": h + i,
            "up_proj": h + i,
            "down_proj": i + h,
        }
        return self.layers * rank * sum(ends[name] for name in modules)


def num_experts(text: Mapping[str, Any]) -> int:
    """Of each layer, 0 in a dense model; transformers writes another name than is published."""
    return int(text.get("num_experts") or text.get("num_local_experts") or 0)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The sizes in a `config.json` of a Qwen3-VL; raises KeyError naming what is missing."""
    text, vision = config["text_config"], config["vision_config"]
    heads, experts = text["num_attention_heads"], num_experts(text)
    return ModelShape(
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        intermediate=text["moe_intermediate_size" if experts else "intermediate_size"],
        heads=heads,
        kv_heads=text["num_key_value_heads"],
        head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        vocabulary=text["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        vision=VisionShape(
            depth=vision["depth"],
            hidden=vision["hidden_size"],
            intermediate=vision["intermediate_size"],
            out_hidden=vision["out_hidden_size"],
            patch_values=vision.get("in_channels", 3)
            * vision["temporal_patch_size"]
            * vision["patch_size"] ** 2,
            positions=vision["num_position_embeddings"],
            merge=vision["spatial_merge_size"],
            deepstack=len(vision["deepstack_visual_indexes"]),
        ),
        experts=experts,
        experts_per_token=text["num_experts_per_tok"] if experts else 1,
    )


_TOWER = VisionShape(
    depth=24,
    hidden=1024,
    intermediate=4096,
    out_hidden=2048,
    patch_values=3 * 2 * 16 * 16,
    positions=2304,
    merge=2,
    deepstack=3,
)
_LARGE_TOWER = replace(_TOWER, depth=27, hidden=1152, intermediate=4304, out_hidden=4096)
_2B = ModelShape(28, 2048, 6144, 16, 8, 128, 151936, True, _TOWER)
_4B = ModelShape(36, 2560, 9728, 32, 8, 128, 151936, True, replace(_TOWER, out_hidden=2560))
_8B = ModelShape(36, 4096, 12288, 32, 8, 128, 151936, False, _LARGE_TOWER)
PUBLISHED_SHAPES: dict[str, ModelShape] = {
    f"hf://Qwen/Qwen3-VL-{size}-{kind}": shape
    for size, shape in {"2B": _2B, "4B": _4B, "8B": _8B}.items()
    for kind in ("Instruct", "Thinking")
}
"""For models whose files are not on this machine."""
