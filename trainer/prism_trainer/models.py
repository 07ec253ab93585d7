"""Models and processors from checkpoints in Hugging Face layout, and back."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor, PreTrainedModel, Qwen3VLForConditionalGeneration

from prism_api.errors import DataError
from prism_api.uris import local_path, scheme
from prism_trainer.engine.attention import use_packed_attention
from prism_trainer.engine.sources import TensorSource
from prism_trainer.tensor_files import write_model

_MODEL_TYPE = "qwen3_vl"


@dataclass(frozen=True)
class LoadedModel:
    """A model with float32 master weights, its processor, and the folder they came from."""

    model: PreTrainedModel
    processor: Any
    folder: Path


def model_folder(uri: str) -> str:
    """What `from_pretrained` takes: a hub name or a local folder, which must exist."""
    if scheme(uri) == "hf":
        return uri.removeprefix("hf://")
    folder = local_path(uri)
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: no model here (config.json is missing); check the model's uri")
    return str(folder)


def load_policy(uri: str, train_vision_tower: bool, device: torch.device) -> LoadedModel:
    """A Qwen3-VL with packed attention, ready to be trained; raises DataError if it cannot be
    read."""
    name = model_folder(uri)
    try:
        model, processor = _load(name), AutoProcessor.from_pretrained(name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{uri}: cannot be loaded as a Qwen3-VL ({error})") from None
    use_packed_attention(model)
    model.model.visual.requires_grad_(train_vision_tower)
    return LoadedModel(model.to(device).train(), processor, Path(name))


def _load(name: str) -> PreTrainedModel:
    """The model; transformers alone would fill what is missing, even everything, with noise."""
    config = AutoConfig.from_pretrained(name)
    if config.model_type != _MODEL_TYPE:
        raise ValueError(f"its model_type is {config.model_type!r}, not {_MODEL_TYPE!r}")
    model, found = Qwen3VLForConditionalGeneration.from_pretrained(
        name, config=config, dtype=torch.float32, output_loading_info=True
    )
    if found["missing_keys"]:
        raise ValueError(f"its weights lack {', '.join(sorted(found['missing_keys'])[:3])}")
    return model


def export(
    folder: Path | None, model: PreTrainedModel, processor: Any, weights: Mapping[str, TensorSource]
) -> None:
    """Write model and processor in Hugging Face layout, as transformers and vLLM load them.

    All processes take part; those without a folder only give their parts of the weights.
    """
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    export_model(folder, config, weights)
    if folder is not None:
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        processor.save_pretrained(folder)


def export_model(folder: Path | None, config: Any, weights: Mapping[str, TensorSource]) -> None:
    """Write config and float32 weights; see `export`."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(config)
        config.dtype = torch.float32
        config.save_pretrained(folder)
    write_model(folder, weights)
