"""Low-rank adapters: linear layers that train W + alpha / rank x B A (arXiv 2106.09685).

A layer keeps the name and place of its weight, so that everything that reads a checkpoint's names
still finds it; merged weights are what leaves the trainer.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from prism_api.errors import FieldProblem, SpecError
from prism_api.stages import Lora
from prism_trainer.engine.sources import TensorSource
from prism_trainer.seeds import derive_seed, torch_generator


@dataclass
class AdapterContext:
    """Shared by all adapters of a model."""

    seed: int = 0
    enabled: bool = True
    """Off: the model is the one that the stage started from."""
    pass_key: tuple[int, ...] | None = None
    """What the pass's dropout depends on beside seed and layer; none: no dropout."""


class LoraLinear(nn.Linear):
    """A frozen linear layer with a trained adapter beside it."""

    def __init__(self, base: nn.Linear, name: str, settings: Lora, context: AdapterContext) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.requires_grad_(False)
        self.scale, self._dropout = settings.alpha / settings.rank, settings.dropout
        self._name, self._context = name, context
        bound = 1 / math.sqrt(base.in_features)
        generator = torch_generator(context.seed, "lora", name)
        start = torch.empty(settings.rank, base.in_features).uniform_(
            -bound, bound, generator=generator
        )
        self.lora_a = nn.Parameter(start.to(base.weight.device))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, settings.rank))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        """See nn.Linear."""
        output = super().forward(input)
        if not self._context.enabled:
            return output
        inner = linear(self._dropped(input), self.lora_a)
        return output + self.scale * linear(inner, self.lora_b)

    def _dropped(self, x: Tensor) -> Tensor:
        """Inverted dropout; a layer that is recomputed in the backward pass drops the same."""
        context = self._context
        if context.pass_key is None or not self._dropout:
            return x
        seed = derive_seed(context.seed, "lora dropout", *context.pass_key, self._name)
        generator = torch.Generator(x.device).manual_seed(seed)
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self._dropout
        return x * kept / (1 - self._dropout)


class Adapters:
    """All adapters of a model, as one thing to switch and to merge; none is fine too."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLinear)}
        contexts = {id(m._context): m._context for m in self._layers.values()}
        (self._context,) = contexts.values() or [AdapterContext()]

    def __len__(self) -> int:
        return len(self._layers)

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model without them, which is the one that the stage started from."""
        self._context.enabled = False
        try:
            yield
        finally:
            self._context.enabled = True

    @contextmanager
    def dropout(self, *key: int) -> Iterator[None]:
        """A pass of an update, with dropout; its backward pass belongs inside."""
        self._context.pass_key = key
        try:
            yield
        finally:
            self._context.pass_key = None

    def merged(self, weights: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
        """A model's weights with the adapters merged into their layers."""
        result = dict(weights)
        for name, layer in self._layers.items():
            a, b = result.pop(f"{name}.lora_a"), result.pop(f"{name}.lora_b")
            result[f"{name}.weight"] = _merged(result[f"{name}.weight"], a, b, layer.scale)
        return result


def _merged(base: TensorSource, a: TensorSource, b: TensorSource, scale: float) -> TensorSource:
    def read() -> Tensor:
        whole, left, right = base.read(), b.read(), a.read()
        with torch.no_grad(), torch.autocast(whole.device.type, enabled=False):
            return whole + scale * (left @ right)

    return TensorSource(base.shape, base.dtype, read)


def add_adapters(model: nn.Module, settings: Lora, seed: int) -> None:
    """Freeze the language model and put adapters beside its chosen layers.

    The vision tower stays as it is: frozen or trained. Raises SpecError for a layer that the model
    does not have: the experts of a mixture are no linear layers.
    """
    context, found = AdapterContext(seed), set[str]()
    for name, parameter in model.named_parameters():
        if ".visual." not in name:
            parameter.requires_grad_(False)
    for name, module in list(model.named_modules()):
        parent, _, last = name.rpartition(".")
        if last in settings.target_modules and ".language_model." in name:
            adapted = LoraLinear(module, name, settings, context)
            setattr(model.get_submodule(parent), last, adapted)
            found.add(last)
    absent = [name for name in settings.target_modules if name not in found]
    if absent:
        problem = f"this model has no linear layers {', '.join(absent)}"
        remedy = f"name only {', '.join(sorted(found)) or 'layers that it has'}"
        raise SpecError([FieldProblem("lora.targetModules", problem, remedy)])
