"""Configs of the published models, as in their config.json on the hub."""

from transformers import Qwen3VLConfig, Qwen3VLMoeConfig

from prism_api.model_shape import ModelShape


def config_of(shape: ModelShape) -> Qwen3VLConfig | Qwen3VLMoeConfig:
    """The config of a shape, dense or with experts."""
    vision, large = shape.vision, shape.vision.depth == 27
    experts = {
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.experts_per_token,
        "moe_intermediate_size": shape.intermediate,
    }
    kind = Qwen3VLMoeConfig if shape.experts else Qwen3VLConfig
    return kind(
        text_config={
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            **(experts if shape.experts else {}),
        },
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.hidden,
            "intermediate_size": vision.intermediate,
            "num_heads": 16,
            "patch_size": 16,
            "spatial_merge_size": vision.merge,
            "temporal_patch_size": 2,
            "out_hidden_size": vision.out_hidden,
            "num_position_embeddings": vision.positions,
            "deepstack_visual_indexes": [8, 16, 24] if large else [5, 11, 17],
        },
        tie_word_embeddings=shape.tied,
    )
