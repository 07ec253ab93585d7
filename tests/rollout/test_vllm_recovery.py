"""A real vLLM server that is killed or hangs: found within seconds, right again afterwards."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import torch
from transformers import PreTrainedModel

from prism_api.errors import RolloutError
from prism_trainer.rollouts import Completion, SamplingParams
from prism_trainer.rollouts.faults import Budget
from prism_trainer.rollouts.server import Limits
from prism_trainer.rollouts.vllm_client import VllmClient
from rollout_servers import READY_SECONDS, Served, all_gone, build_client, build_requests
from served_models import mixed_rows

pytestmark = pytest.mark.vllm

PATIENT = Budget(attempts=10, outage_seconds=READY_SECONDS)
IMPATIENT = Budget(attempts=2, outage_seconds=2.0)
LONG = SamplingParams(400, temperature=0.0)


class Background:
    """Something that runs beside the test."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None

        def run() -> None:
            try:
                self.result = work()
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> Any:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "it hangs"
        if self.error is not None:
            raise self.error
        return self.result

    def wait_until(self, happened: Callable[[], bool], seconds: float = 60) -> None:
        """For something that is to happen before it ends."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.is_running, f"it has ended ({self.error})"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()


def running_requests(served: Served) -> float:
    text = httpx2.get(f"{served.server.url}/metrics", trust_env=False, timeout=30).text
    (line,) = (x for x in text.splitlines() if x.startswith("vllm:num_requests_running{"))
    return float(line.rpartition(" ")[2])


def kill(served: Served) -> None:
    """The server's first process, as the kernel does it when memory is short."""
    processes = served.server.processes()
    assert len(processes) >= 3
    served.server.process.kill()
    assert all_gone(processes), "a part of the killed server lives on"


def endless(served: Served, seed: int) -> PreTrainedModel:
    """A model whose likeliest token is never the end, so that something is running to be struck."""
    model = served.model(seed)
    with torch.no_grad():
        model.lm_head.weight[served.encoder.eos_id] = 0.0
    return model


def greedy(client: VllmClient, served: Served, params: SamplingParams) -> list[Completion]:
    requests = build_requests(served.encoder, mixed_rows())
    return [c for (c,) in client.generate(requests, params)]


def long_rollouts(
    client: VllmClient, served: Served, enough: threading.Event
) -> list[list[Completion]]:
    """One long rollout after the other: one is under way whenever the server is struck."""
    rollouts = [greedy(client, served, LONG)]
    while not enough.is_set():
        rollouts.append(greedy(client, served, LONG))
    return rollouts


def test_a_server_killed_in_the_middle_of_a_rollout(dense: Served, tmp_path: Path) -> None:
    model = endless(dense, 8)
    client = build_client([dense.server], model, tmp_path, PATIENT)
    client.update_weights(11)
    expected = [dense.reference(model).greedy(row, LONG.max_tokens) for row in mixed_rows()]

    enough = threading.Event()
    rollouts = Background(lambda: long_rollouts(client, dense, enough))
    rollouts.wait_until(lambda: running_requests(dense) > 0)
    kill(dense)
    enough.set()
    assert rollouts.is_running

    hasty = build_client([dense.server], model, tmp_path / "hasty", IMPATIENT)
    hasty.update_weights(0)
    started = time.monotonic()
    with pytest.raises(RolloutError, match=f"{dense.server.url}: state: .*no rollout server for"):
        greedy(hasty, dense, LONG)
    assert time.monotonic() - started < 10

    dense.server.restart()
    for completions in rollouts.wait(120):
        assert [c.tokens.tolist() for c in completions] == expected
        assert {c.weight_version for c in completions} == {11}


def test_a_server_killed_in_the_middle_of_an_update(dense: Served, tmp_path: Path) -> None:
    """The worker is stopped, so that the update is certainly not over when the kill comes."""
    model = dense.model(9)
    client = build_client([dense.server], model, tmp_path, PATIENT)
    client.update_weights(12)
    expected = [dense.reference(model).greedy(row, 16) for row in mixed_rows()]
    worker = max(dense.server.processes(), key=lambda p: p.memory_info().rss)
    worker.send_signal(signal.SIGSTOP)

    rollout = Background(lambda: greedy(client, dense, SamplingParams(16, 0.0)))
    weights = dense.server.folder / "weights"
    rollout.wait_until(lambda: any(path.name.startswith("v12-") for path in weights.iterdir()))
    health = httpx2.get(f"{dense.server.url}/health", trust_env=False, timeout=30)
    assert health.status_code == 200, "a server stays ready during an update"
    assert rollout.is_running
    kill(dense)

    dense.server.restart()
    completions = rollout.wait(120)
    assert [c.tokens.tolist() for c in completions] == expected
    assert {c.weight_version for c in completions} == {12}


def test_a_server_that_hangs_is_found_and_can_be_used_again(dense: Served, tmp_path: Path) -> None:
    model = endless(dense, 10)
    hasty = build_client([dense.server], model, tmp_path, IMPATIENT, Limits(stall=3.0))
    hasty.update_weights(13)
    before = greedy(hasty, dense, SamplingParams(8, 0.0))
    worker = max(dense.server.processes(), key=lambda p: p.memory_info().rss)
    rollouts = Background(lambda: long_rollouts(hasty, dense, threading.Event()))
    rollouts.wait_until(lambda: running_requests(dense) > 0)
    worker.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(RolloutError, match="generate: no token for"):
            rollouts.wait(60)
    finally:
        worker.send_signal(signal.SIGCONT)
    assert worker.status() != psutil.STATUS_ZOMBIE
    after = greedy(hasty, dense, SamplingParams(8, 0.0))
    assert [c.tokens.tolist() for c in after] == [c.tokens.tolist() for c in before]
