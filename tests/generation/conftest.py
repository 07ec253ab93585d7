"""For the tests of generation: one small model, prompts of every kind."""

from typing import Any

import numpy as np
import pytest

from model_builders import build_model, build_prompt
from numerics import set_up
from prism_trainer.engine.packing import Prompt

set_up()


@pytest.fixture(scope="session")
def model() -> Any:
    """A tiny Qwen3-VL with transformers' own attention; not to be changed."""
    return build_model()


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Text, one image, two images, grids of two and more rows; of very different lengths."""
    rng = np.random.default_rng(3)
    layouts: list[tuple[list[tuple[int, int, int]], int]] = [
        ([], 1),
        ([(1, 2, 6)], 5),
        ([(1, 4, 6), (1, 2, 2)], 9),
        ([], 30),
        ([(1, 8, 4)], 0),
        ([(1, 4, 4)], 3),
    ]
    return [build_prompt(rng, grids, words) for grids, words in layouts]
