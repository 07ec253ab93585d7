"""VllmClient: the RolloutClient that samples from vLLM servers over HTTP."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from prism_api.rollout import Weights, check_vllm
from prism_trainer.engine.sources import TensorSource
from prism_trainer.rollouts import Completion, Request, SamplingParams
from prism_trainer.rollouts.addresses import known_urls, server_urls
from prism_trainer.rollouts.dispatch import dispatch
from prism_trainer.rollouts.faults import Budget, Fault
from prism_trainer.rollouts.publish import Publisher
from prism_trainer.rollouts.server import Endpoint, Limits, RolloutServer


@dataclass(frozen=True)
class Servers:
    """Where the rollout servers are and how they are used."""

    urls: tuple[str, ...]
    """A host may be a name that has several addresses: a server each."""
    token: str
    concurrency: int = 64
    """Requests (prompts) that one server has at a time; it queues what it cannot compute yet."""
    limits: Limits = field(default_factory=Limits)
    budget: Budget = field(default_factory=Budget)


class VllmClient:
    """Spreads prompts over all servers; weights reach a server when it is next used.

    A server is never trusted to have the right weights because of how it was started: it says their
    digest, each request names it, and a server that has other ones is brought up to date first.
    """

    def __init__(
        self,
        servers: Servers,
        model: Any,
        eos_id: int,
        weights_of_model: Callable[[], Mapping[str, TensorSource]],
        publisher: Publisher,
    ) -> None:
        self._servers, self._model, self._publisher = servers, model, publisher
        self._eos_id = eos_id
        self._weights_of_model = weights_of_model
        self._weights: Weights | None = None

    def update_weights(self, version: int) -> None:
        """Publish the policy's weights; all processes of the stage call this together."""
        self._weights = self._publisher.publish(self._weights_of_model(), version)

    def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> list[list[Completion]]:
        """See RolloutClient.generate; raises RolloutError when the servers fail for too long.

        Tokens depend on what else a server computes at the time, as is usual for GPUs.
        """
        return asyncio.run(self._generate(requests, params))

    async def _generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> list[list[Completion]]:
        assert self._weights is not None, "weights are published before the first sample"
        servers, weights = self._servers, self._weights
        lengths = (len(request.prompt.token_ids) for request in requests)
        context = self._possible(max(lengths, default=0) + params.max_tokens)
        async with _http(servers) as http:
            urls = await server_urls(servers.urls, servers.budget)
            endpoints = [Endpoint(http, url, servers.limits) for url in urls]
            workers = [
                RolloutServer(endpoint, weights, context, self._eos_id) for endpoint in endpoints
            ]
            jobs = [(request, params) for request in requests]
            return await dispatch(workers, jobs, servers.concurrency, servers.budget)

    def _possible(self, tokens: int) -> int:
        """So many tokens, or as many as the model has positions for."""
        limit: int = self._model.config.text_config.max_position_embeddings
        return min(tokens, limit)


def check_versions(servers: Servers) -> None:
    """Refuse servers of an untested vLLM before anything is loaded; raises SpecError naming one.

    A server that does not answer now may do so when it is needed.
    """
    asyncio.run(_check_versions(servers))


async def _check_versions(servers: Servers) -> None:
    async with _http(servers) as http:
        for url in await known_urls(servers.urls):
            endpoint = Endpoint(http, url, servers.limits)
            with suppress(Fault):
                state = await endpoint.state("state", "GET", None, servers.limits.answer)
                check_vllm(state.vllm, url)


def _http(servers: Servers) -> httpx2.AsyncClient:
    """No proxy of the environment comes between a stage and its own servers."""
    authorization = {"Authorization": f"Bearer {servers.token}"}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(headers=authorization, limits=limits, trust_env=False)
