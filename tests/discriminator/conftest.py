"""For the tests of the discriminator: the dense model that is upcycled."""

from typing import Any

import pytest

from model_builders import build_model
from numerics import set_up

set_up()


@pytest.fixture(scope="session")
def dense() -> Any:
    """A tiny dense Qwen3-VL with transformers' own attention; not to be changed."""
    return build_model()
