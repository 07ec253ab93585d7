"""Real vLLM servers for tests, and what a trainer needs to use them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

from prism_api.resources import DataSource
from prism_operator.local.servers import ServerProcess, new_token, port_of, reserved_port
from prism_store.store import DirectoryStore
from prism_trainer.data.encoder import Encoder
from prism_trainer.data.rows import Row
from prism_trainer.distributed import Ranks
from prism_trainer.rollouts import Request
from prism_trainer.rollouts.faults import Budget
from prism_trainer.rollouts.publish import Publisher
from prism_trainer.rollouts.server import Limits
from prism_trainer.rollouts.vllm_client import Servers, VllmClient
from served_models import Kind, build_served_model, weights_of
from stage_builders import rlvr_stage, stage_config
from transformers_reference import Reference

READY_SECONDS = 1800.0
CONTEXT = 512


class TestServer:
    """A server that can be killed and started again at the same address."""

    __test__ = False

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        folder.mkdir(parents=True)
        self.token_file = new_token(folder / "token")
        self._port = reserved_port()
        self.start()

    def start(self) -> None:
        """Start it; it is not ready yet."""
        arguments = [f"--model={self.model}", f"--max-model-len={CONTEXT}"]
        self.process = ServerProcess(arguments, self.folder, self.token_file, port_of(self._port))

    def wait(self) -> "TestServer":
        """Wait until it has generated a token."""
        self.process.wait(READY_SECONDS)
        return self

    def restart(self) -> None:
        """As a cluster does with one that has ended."""
        self.start()
        self.wait()

    def stop(self) -> None:
        """End it for good."""
        self.process.stop()
        self._port.close()

    @property
    def url(self) -> str:
        """Its address."""
        return self.process.url

    @property
    def token(self) -> str:
        """Its token."""
        return self.token_file.read_text()

    def processes(self) -> list[psutil.Process]:
        """The server and all that it has started."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


@dataclass
class Served:
    """A server, and other weights of the same architecture to bring to it."""

    kind: Kind
    server: TestServer
    processor: Any
    encoder: Encoder

    def model(self, seed: int) -> PreTrainedModel:
        """Weights that the server was not started with."""
        assert seed != 0
        return build_served_model(self.kind, seed)

    def reference(self, model: PreTrainedModel) -> Reference:
        """transformers' own answers."""
        return Reference(model, self.processor)


def all_gone(processes: Sequence[psutil.Process], seconds: float = 30.0) -> bool:
    """Whether all have ended before the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
            return True
        time.sleep(0.1)
    return False


def build_client(
    servers: Sequence[TestServer],
    model: PreTrainedModel,
    folder: Path,
    budget: Budget | None = None,
    limits: Limits | None = None,
) -> VllmClient:
    """A client whose weights go through a store in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    stage = rlvr_stage(DataSource(uri="file:///none.parquet"))
    config = stage_config(stage, servers[0].model, folder)
    store = DirectoryStore(config.stage_uri)
    publisher = Publisher(store, config, Ranks(), folder / "work", torch.float32)
    used = Servers(
        tuple(server.url for server in servers),
        servers[0].token,
        limits=limits or Limits(),
        budget=budget or Budget(),
    )
    eos_id = model.config.text_config.eos_token_id
    return VllmClient(used, model, eos_id, lambda: weights_of(model), publisher)


def build_requests(
    encoder: Encoder, rows: Sequence[Row], samples: int = 1, seed: int = 0
) -> list[Request]:
    """`samples` responses to each row."""
    return [
        Request(prompt, tuple(range(seed + 100 * i, seed + 100 * i + samples)), row)
        for i, (row, prompt) in enumerate(zip(rows, encoder.prompts(rows), strict=True))
    ]
