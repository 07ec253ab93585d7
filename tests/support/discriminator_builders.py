"""Discriminators on tiny models, and comparisons for them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from model_builders import MIXED, WORDS, Shape, build_prompt
from prism_api.stages import Discriminator as Settings
from prism_trainer.discriminator.comparison import Comparison, Segments
from prism_trainer.discriminator.discriminator import Discriminator
from prism_trainer.discriminator.model import DiscriminatorModel, upcycle
from prism_trainer.distributed import Ranks

ONE_PACK = 10_000


def decided(model: DiscriminatorModel) -> DiscriminatorModel:
    """The same with a head and routers large enough to matter, as after training."""
    with torch.no_grad():
        model.head.weight.mul_(10)
        for layer in model.tower.language_model.layers:
            layer.mlp.gate.weight.mul_(30)
    return model


def build_discriminator(
    dense: Any, settings: Settings, max_tokens: int = ONE_PACK, seed: int = 4
) -> Discriminator:
    """A discriminator whose routers and head have made up their minds."""
    model = decided(upcycle(dense, settings, seed))
    return Discriminator(model, settings, Ranks(), "fp32", max_tokens)


def build_segments(rng: np.random.Generator) -> Segments:
    """A caption and a reasoning of random words."""
    caption, reasoning = (rng.integers(0, WORDS, int(rng.integers(3, 9))) for _ in range(2))
    return caption, reasoning


def build_comparisons(
    shapes: Sequence[Shape] = MIXED, students: Sequence[int] = (3, 0, 2, 4, 1), seed: int = 0
) -> list[Comparison]:
    """One per shape, with so many students each; one prompt has none with the format."""
    rng = np.random.default_rng(seed)
    return [
        Comparison(
            build_prompt(rng, shape.grids, shape.words),
            build_segments(rng),
            tuple(build_segments(rng) for _ in range(count)),
            dropout_seed=i,
        )
        for i, (shape, count) in enumerate(zip(shapes, students, strict=True))
    ]
