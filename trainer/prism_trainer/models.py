"""Models and processors from checkpoints in Hugging Face layout, and back.

Files have a mixture's experts as published checkpoints and vLLM do; in memory they lie as
transformers holds them.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoProcessor,
    PreTrainedModel,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
)

from prism_api.errors import DataError
from prism_api.uris import local_path, scheme
from prism_trainer.engine.attention import use_packed_attention
from prism_trainer.engine.sources import TensorSource
from prism_trainer.model_headers import check_model
from prism_trainer.model_tensors import DENSE, MIXTURE, transposed, turns
from prism_trainer.tensor_files import TensorFiles, write_model

_CLASSES = {DENSE: Qwen3VLForConditionalGeneration, MIXTURE: Qwen3VLMoeForConditionalGeneration}
_FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors")
"""What a model on a hub is loaded from."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with float32 master weights, its processor, and the folder they came from."""

    model: PreTrainedModel
    processor: Any
    folder: Path


def model_folder(uri: str) -> Path:
    """The folder of a model; one on a hub is fetched into its cache. Raises DataError."""
    if scheme(uri) != "hf":
        return local_path(uri)
    try:
        return Path(snapshot_download(uri.removeprefix("hf://"), allow_patterns=[*_FILES]))
    except (OSError, ValueError) as error:
        raise DataError(f"{uri}: cannot be fetched from the hub ({error})") from None


def load_policy(uri: str, train_vision_tower: bool) -> LoadedModel:
    """A Qwen3-VL, dense or a mixture of experts, with packed attention, ready to be trained; in
    host memory, from where an engine takes it.

    Raises DataError if it cannot be read, or is not whole.
    """
    folder = model_folder(uri)
    check_model(folder)
    try:
        model, processor = _load(folder), AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{uri}: cannot be loaded as a Qwen3-VL ({error})") from None
    use_packed_attention(model)
    model.model.visual.requires_grad_(train_vision_tower)
    return LoadedModel(model.train(), processor, folder)


def _load(folder: Path) -> PreTrainedModel:
    """The model of a checked folder."""
    config = AutoConfig.from_pretrained(folder)
    model, found = _CLASSES[config.model_type].from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True
    )
    # transformers alone would fill what it does not find, even everything, with noise.
    if found["missing_keys"]:
        raise ValueError(f"its weights lack {', '.join(sorted(found['missing_keys'])[:3])}")
    return model


class ExportedWeights(Mapping[str, Tensor]):
    """Weights of an exported model by name, as the model holds them, each read when it is asked
    for."""

    def __init__(self, folder: Path) -> None:
        self._files = TensorFiles(*sorted(folder.glob("*.safetensors")))

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._files[name]
        return tensor.transpose(1, 2) if turns(name, tensor.shape) else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def published(weights: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """A model's weights as its files have them."""
    return {n: _transposed(w) if turns(n, w.shape) else w for n, w in weights.items()}


def _transposed(source: TensorSource) -> TensorSource:
    shape = transposed(source.shape)
    return TensorSource(shape, source.dtype, lambda: source.read().transpose(1, 2))


def export(
    folder: Path | None, model: PreTrainedModel, processor: Any, weights: Mapping[str, TensorSource]
) -> None:
    """Write model and processor in Hugging Face layout, as transformers and vLLM load them.

    All processes take part; those without a folder only give their parts of the weights.
    """
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    export_model(folder, config, published(weights))
    if folder is not None:
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        processor.save_pretrained(folder)


def export_model(folder: Path | None, config: Any, weights: Mapping[str, TensorSource]) -> None:
    """Write config and float32 weights, as files have them; see `export`."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(config)
        config.dtype = torch.float32
        config.save_pretrained(folder)
    write_model(folder, weights)
