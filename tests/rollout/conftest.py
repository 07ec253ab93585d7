"""For the tests of rollouts: real vLLM servers, one of each kind per session (minutes to start);
scripted ones with a client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

from client_of_scripts import Trainer, a_good_answer
from numerics import set_up
from prism_trainer.data.encoder import Encoder
from prism_trainer.digits.processor import build_processor
from prism_trainer.digits.tokenizer import build_tokenizer
from prism_trainer.rollouts import Request
from rollout_servers import Served, TestServer, build_requests
from scripted_server import Scripted, scripted_server
from served_models import Kind, build_served_model, mixed_rows, save_served_model

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


@pytest.fixture(scope="module")
def model() -> Any:
    return build_served_model("dense", 1)


@pytest.fixture(scope="module")
def request_() -> Request:
    processor = build_processor(build_tokenizer())
    image_id = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    return build_requests(Encoder(processor, image_id), mixed_rows()[:1])[0]


@pytest.fixture
def one(request_: Request) -> Iterator[Scripted]:
    with scripted_server() as server:
        server.answer = a_good_answer(request_, 1)
        yield server


@pytest.fixture
def two(request_: Request) -> Iterator[Scripted]:
    with scripted_server() as server:
        server.answer = a_good_answer(request_, 2)
        yield server


@pytest.fixture
def trainer(one: Scripted, model: Any, tmp_path: Path, request_: Request) -> Trainer:
    return Trainer([one], model, tmp_path, request_)


@pytest.fixture
def pair(one: Scripted, two: Scripted, model: Any, tmp_path: Path, request_: Request) -> Trainer:
    return Trainer([one, two], model, tmp_path, request_)
