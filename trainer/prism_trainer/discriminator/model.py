"""A mixture of experts with a score head: a dense Qwen3-VL upcycled, or a Qwen3-VL-MoE taken up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen3VLMoeConfig, Qwen3VLMoeModel
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoePreTrainedModel

from prism_api.stages import Discriminator
from prism_trainer.discriminator.routing import Router, RoutingContext
from prism_trainer.discriminator.start import HEAD
from prism_trainer.engine.attention import use_packed_attention
from prism_trainer.engine.head import Float32Linear
from prism_trainer.seeds import torch_generator


class DiscriminatorModel(nn.Module):
    """The tower of a Qwen3-VL-MoE and a linear head that reads one score from a hidden state."""

    def __init__(self, tower: Any, routing: RoutingContext) -> None:
        super().__init__()
        self.tower, self.routing = tower, routing
        self.head = Float32Linear(tower.config.text_config.hidden_size, 1, bias=False)


def upcycle(dense: PreTrainedModel, settings: Discriminator, seed: int) -> DiscriminatorModel:
    """Copy a dense model into every expert, with noise; routers and head start small (reference
    `create_vl_moe.py`).

    Everything but experts, routers and head keeps its name, shape and value; a tensor that finds no
    place is a programming error, never a silent random start.
    """
    model = discriminator_like(dense.config, settings)
    # One tensor at a time: host memory never holds the experts twice.
    waiting = model.tower.state_dict()
    for name, value in _start_values(dense, settings, seed):
        if name not in waiting:
            raise RuntimeError(f"{name}: has no place in the discriminator")
        waiting.pop(name).copy_(value)
    if waiting:
        raise RuntimeError(f"{', '.join(sorted(waiting)[:3])}: not set by the dense model")
    _start_head(model, settings, seed)
    return model


def _start_head(model: DiscriminatorModel, settings: Discriminator, seed: int) -> None:
    generator = torch_generator(seed, "discriminator", "head")
    with torch.no_grad():
        model.head.weight.normal_(0, settings.router_init_std, generator=generator)


class _Scored(Qwen3VLMoePreTrainedModel):  # type: ignore[misc]
    """A mixture with a head under the names of a checkpoint, for transformers' own loader: it reads
    shards and both layouts of experts."""

    def __init__(self, config: Qwen3VLMoeConfig) -> None:
        super().__init__(config)
        self.model = Qwen3VLMoeModel(config)
        self.v_head = nn.Linear(config.text_config.hidden_size, 1, bias=False)
        self.post_init()


def load_mixture(folder: Path, settings: Discriminator, seed: int) -> DiscriminatorModel:
    """A Qwen3-VL-MoE as it is, with its score head if it has one, else with a small random one.

    Raises what `from_pretrained` raises, and ValueError for tensors that
    are missing.
    """
    loaded, found = _Scored.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    missing = set(found["missing_keys"])
    if missing - {HEAD}:
        raise ValueError(f"its weights lack {', '.join(sorted(missing - {HEAD})[:3])}")
    model = _with_routers(loaded.model, settings)
    if missing:
        _start_head(model, settings, seed)
    else:
        model.head.weight = loaded.v_head.weight
    return model


def discriminator_like(dense: Any, settings: Discriminator) -> DiscriminatorModel:
    """A discriminator with the architecture that a dense model's config gives; any weights."""
    config = _moe_config(dense, settings)
    return _with_routers(Qwen3VLMoeModel._from_config(config, dtype=torch.float32), settings)


def _with_routers(tower: Any, settings: Discriminator) -> DiscriminatorModel:
    """The tower with our routers on the weights of its own, our attention, and a head."""
    routing = RoutingContext()
    for number, layer in enumerate(tower.language_model.layers):
        weight = layer.mlp.gate.weight
        layer.mlp.gate = Router(number, weight, settings.experts_per_token, routing)
    use_packed_attention(tower)
    tower.config.architectures = [type(tower).__name__]
    return DiscriminatorModel(tower, routing)


def _moe_config(dense: Any, settings: Discriminator) -> Qwen3VLMoeConfig:
    text = dense.text_config.to_dict()
    text.pop("model_type")
    text |= {
        "num_experts": settings.num_experts,
        "num_experts_per_tok": settings.experts_per_token,
        "moe_intermediate_size": text["intermediate_size"],
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "router_aux_loss_coef": settings.load_balance_coef,
    }
    vision = dense.vision_config.to_dict()
    vision.pop("model_type")
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = {name: getattr(dense, name) for name in names}
    return Qwen3VLMoeConfig(text_config=text, vision_config=vision, **ids)


def _start_values(
    dense: PreTrainedModel, settings: Discriminator, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """The tower's tensors from the dense model's: experts are noisy copies, routers random."""
    source = {name: t.detach().cpu() for name, t in dense.model.state_dict().items()}
    for name, tensor in source.items():
        stem, _, part = name.partition(".mlp.")
        if not (stem.startswith("language_model.layers.") and part):
            yield name, tensor
        elif part == "gate_proj.weight":
            fused = torch.cat([tensor, source[f"{stem}.mlp.up_proj.weight"]])
            key = f"{stem}.mlp.experts.gate_up_proj"
            yield key, _noisy_copies(fused, settings, seed, key)
            yield f"{stem}.mlp.gate.weight", _router_start(tensor.shape[1], settings, seed, stem)
        elif part == "down_proj.weight":
            key = f"{stem}.mlp.experts.down_proj"
            yield key, _noisy_copies(tensor, settings, seed, key)


def _noisy_copies(tensor: Tensor, settings: Discriminator, seed: int, name: str) -> Tensor:
    generator = torch_generator(seed, "upcycle", name)
    copies = tensor.expand(settings.num_experts, *tensor.shape)
    noise = torch.empty_like(copies, memory_format=torch.contiguous_format).normal_(
        generator=generator
    )
    return copies + settings.expert_noise_std * noise


def _router_start(width: int, settings: Discriminator, seed: int, name: str) -> Tensor:
    generator = torch_generator(seed, "router", name)
    weight = torch.empty(settings.num_experts, width)
    return weight.normal_(0, settings.router_init_std, generator=generator)
