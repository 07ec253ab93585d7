"""For the tests of rollouts: real vLLM servers, one of each kind per session (minutes to start)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.utils import logging

from numerics import set_up
from prism_trainer.data.encoder import Encoder
from prism_trainer.digits.processor import build_processor
from prism_trainer.digits.tokenizer import build_tokenizer
from rollout_servers import Served, TestServer
from served_models import Kind, build_served_model, save_served_model

set_up()
logging.disable_progress_bar()


def _served(kind: Kind, folder: Path) -> Iterator[Served]:
    model = build_served_model(kind, seed=0)
    server = TestServer(save_served_model(model, folder / "model"), folder / "server")
    processor = build_processor(build_tokenizer())
    try:
        server.wait()
        encoder = Encoder(processor, model.config.image_token_id)
        yield Served(kind, server, processor, encoder)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A dense model."""
    yield from _served("dense", tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A mixture of experts."""
    yield from _served("moe", tmp_path_factory.mktemp("moe"))


@pytest.fixture(params=["dense", "moe"], scope="session")
def served(request: pytest.FixtureRequest) -> Served:
    """Each of them."""
    found: Served = request.getfixturevalue(request.param)
    return found
