"""A trainer's client of scripted servers, and what these may do instead of an answer."""

import time
from pathlib import Path
from typing import Any

import pytest

from prism_api.errors import PrismError
from prism_trainer.rollouts import Completion, Request, SamplingParams
from prism_trainer.rollouts.faults import Budget
from prism_trainer.rollouts.server import Limits
from prism_trainer.rollouts.vllm_client import VllmClient
from rollout_servers import build_client
from scripted_server import Handler, Scripted

LIMITS = Limits(connect=1, answer=0.5, update=1, stall=0.5, request=20, poll=0.02)
BUDGET = Budget(attempts=3, outage_seconds=0.6, first_pause_seconds=0.01, longest_pause_seconds=0.1)
SOON_SECONDS = 5
CHAT, STATE, UPDATE = "POST /v1/chat/completions", "GET /prism/weights", "POST /prism/weights"


def a_good_answer(request: Request, token: int) -> dict[str, Any]:
    """One token."""
    choice = {
        "index": 0,
        "token_ids": [token],
        "finish_reason": "length",
        "logprobs": {"content": [{"logprob": -1.0}]},
    }
    return {"prompt_token_ids": request.prompt.token_ids.tolist(), "choices": [choice]}


class Trainer:
    """A client of some servers, with weights published."""

    def __init__(
        self,
        servers: list[Scripted],
        model: Any,
        folder: Path,
        request: Request,
        limits: Limits = LIMITS,
    ) -> None:
        addresses: Any = [_Address(server.url, folder) for server in servers]
        self.client: VllmClient = build_client(addresses, model, folder, BUDGET, limits)
        self._request = request
        self.client.update_weights(5)

    def sample(self, count: int = 1) -> list[Completion]:
        """So many responses to its prompt."""
        requests = [self._request] * count
        return [c for (c,) in self.client.generate(requests, SamplingParams(4))]

    def error(self, count: int = 1) -> PrismError:
        """What it ends with, soon."""
        started = time.monotonic()
        with pytest.raises(PrismError) as raised:
            self.sample(count)
        assert time.monotonic() - started < SOON_SECONDS
        return raised.value


class _Address:
    """What `build_client` needs of a server."""

    token = "a-token"

    def __init__(self, url: str, model: Path) -> None:
        self.url, self.model = url, model


def hang(handler: Handler) -> None:
    """Until the client goes away."""
    handler.hang()


def hang_up(handler: Handler) -> None:
    """As a killed server does."""
    handler.hang_up()


def say(status: int, content: Any = "") -> Any:
    """A reply, always the same."""
    return lambda handler: handler.reply(status, content)


def times(count: int, first: Any, then: Any) -> Any:
    """A reply for the first requests, another for all later ones."""
    left = iter(range(count))
    return lambda handler: (first if next(left, None) is not None else then)(handler)
