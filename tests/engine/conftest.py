"""For the tests of the engine: one small model with transformers' own attention."""

from typing import Any

import pytest
import torch

from model_builders import build_model
from numerics import set_up

set_up()


@pytest.fixture(scope="session")
def model() -> Any:
    """A tiny Qwen3-VL in float64; copy it before changing it."""
    return build_model(dtype=torch.float64)
