"""A discriminator's tensors as a checkpoint in Hugging Face layout has them, and back.

The tower has the names of a published Qwen3-VL-MoE; the score head is one tensor more.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor

from prism_trainer import models
from prism_trainer.discriminator.start import HEAD
from prism_trainer.engine.sources import TensorSource
from prism_trainer.model_tensors import turns

_OWN_TOWER, _TOWER = "tower.", "model."


def published(weights: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """The tensors of a `DiscriminatorModel` as published checkpoints have them."""
    return models.published({_published_name(name): s for name, s in weights.items()})


def _published_name(name: str) -> str:
    return HEAD if name == "head.weight" else _TOWER + name.removeprefix(_OWN_TOWER)


class OwnTensors(Mapping[str, Tensor]):
    """What `published` gave, read again under our names, one tensor at a time."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[_published_name(name)]
        return tensor.transpose(1, 2) if turns(name, tensor.shape) else tensor

    def __iter__(self) -> Iterator[str]:
        for name in self._tensors:
            yield "head.weight" if name == HEAD else _OWN_TOWER + name.removeprefix(_TOWER)

    def __len__(self) -> int:
        return len(self._tensors)
