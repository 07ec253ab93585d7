"""Configs of the published models, as in their config.json on the hub."""

from transformers import Qwen3VLConfig

from prism_api.model_shape import ModelShape


def config_of(shape: ModelShape) -> Qwen3VLConfig:
    """The config of a shape."""
    vision, large = shape.vision, shape.vision.depth == 27
    return Qwen3VLConfig(
        text_config={
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
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
