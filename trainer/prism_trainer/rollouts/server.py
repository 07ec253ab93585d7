"""One rollout server over HTTP: every call has a deadline and fails as a Fault or for good."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from prism_api.base import parse_json
from prism_api.errors import FieldProblem, RolloutError, SpecError
from prism_api.rollout import (
    DIGEST_HEADER,
    REQUEST_SECONDS,
    TOKEN_FILE_VARIABLE,
    UPDATE_SECONDS,
    WEIGHTS_PATH,
    ServerState,
    Weights,
    check_vllm,
)
from prism_trainer.rollouts import Completion, Request, SamplingParams
from prism_trainer.rollouts.chat import OPERATION, chat_request, completions_of
from prism_trainer.rollouts.faults import Fault, Kind

_PROGRESS = re.compile(
    r"^vllm:(?:prompt_tokens|generation_tokens|request_success)_total\{.*\} (\S+)$", re.MULTILINE
)


@dataclass(frozen=True)
class Limits:
    """Seconds that a server may take."""

    connect: float = 5.0
    answer: float = 30.0
    """For what needs no computation."""
    update: float = UPDATE_SECONDS
    stall: float = 180.0
    """Without a single token while there are requests."""
    request: float = REQUEST_SECONDS
    poll: float = 1.0
    """Between two looks at the progress."""


class Endpoint:
    """A server's address; the bearer token is in the client."""

    def __init__(self, http: httpx2.AsyncClient, url: str, limits: Limits) -> None:
        self._http, self.url, self.limits = http, url, limits

    async def state(
        self, operation: str, method: str, body: dict[str, Any] | None, seconds: float
    ) -> ServerState:
        """What the server says of itself, or after what it was told."""
        answer = await self.call(operation, method, WEIGHTS_PATH, body, seconds)
        return parse_json(ServerState, answer.content, self.url)

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        seconds: float,
        headers: dict[str, str] | None = None,
    ) -> httpx2.Response:
        """The answer; raises Fault for what another try may mend, RolloutError or SpecError for
        what not."""
        timeout = httpx2.Timeout(seconds, connect=self.limits.connect, pool=None)
        try:
            async with asyncio.timeout(seconds):
                answer = await self._http.request(
                    method, self.url + path, json=body, headers=headers, timeout=timeout
                )
        except httpx2.ConnectTimeout:
            detail = f"no connection within {self.limits.connect:g} s"
            raise Fault(Kind.UNREACHABLE, self.url, operation, detail) from None
        except (TimeoutError, httpx2.TimeoutException):
            detail = f"no answer within {seconds:g} s"
            raise Fault(Kind.TIMED_OUT, self.url, operation, detail) from None
        except httpx2.TransportError as error:
            detail = str(error) or type(error).__name__
            raise Fault(Kind.UNREACHABLE, self.url, operation, detail) from None
        _check_status(answer, self.url, operation)
        return answer


class RolloutServer:
    """See dispatch.Worker; its jobs are (request, params) and give completions."""

    def __init__(self, endpoint: Endpoint, weights: Weights, context: int, eos_id: int) -> None:
        self._endpoint, self._url, self._limits = endpoint, endpoint.url, endpoint.limits
        self._weights, self._context, self._eos_id = weights, context, eos_id
        self._running = 0

    async def admit(self) -> None:
        """Make it answer with the current weights; whatever it was started with is not trusted."""
        state = await self._endpoint.state("state", "GET", None, self._limits.answer)
        check_state(state, self._url, self._context)
        if state.weights != self._weights:
            body = self._weights.model_dump(mode="json", by_alias=True)
            state = await self._endpoint.state("update", "POST", body, self._limits.update)
        if state.weights != self._weights:
            detail = f"has weights {state.weights} after an update to {self._weights.version}"
            raise Fault(Kind.WRONG_WEIGHTS, self._url, "update", detail)

    async def run(self, job: tuple[Request, SamplingParams]) -> list[Completion]:
        """Sample the responses to one prompt."""
        self._running += 1
        try:
            return await self._sample(*job)
        finally:
            self._running -= 1

    async def _sample(self, request: Request, params: SamplingParams) -> list[Completion]:
        body = await asyncio.to_thread(chat_request, request, params, self._eos_id)
        wanted = {DIGEST_HEADER: self._weights.checkpoint.digest}
        path, seconds = "/v1/chat/completions", self._limits.request
        answer = await self._endpoint.call(OPERATION, "POST", path, body, seconds, wanted)
        had = answer.headers.get(DIGEST_HEADER, "none")
        if had != self._weights.checkpoint.digest:  # they changed after the request was let in
            detail = f"answered with weights {had[:12]}"
            raise Fault(Kind.WRONG_WEIGHTS, self._url, OPERATION, detail)
        return completions_of(answer.json(), request, self._url, self._weights)

    async def watch(self, on_progress: Callable[[], None]) -> None:
        """Raises Fault once no token has come for too long although there are requests: while
        others compute the last ones, this server has none."""
        seen: list[str] = []
        since = time.monotonic()
        while True:
            answer = await self._endpoint.call(
                "metrics", "GET", "/metrics", None, self._limits.stall
            )
            counts = _PROGRESS.findall(answer.text)
            now = time.monotonic()
            if counts != seen or not self._running:
                seen, since = counts, now
                on_progress()
            elif now - since > self._limits.stall:
                detail = f"no token for {now - since:.0f} s"
                raise Fault(Kind.STALLED, self._url, OPERATION, detail)
            await asyncio.sleep(self._limits.poll)


def check_state(state: ServerState, url: str, context: int) -> None:
    """Refuse a server that will never do: of another vLLM, or for prompt and response of fewer
    tokens than `context`; raises SpecError naming its address."""
    check_vllm(state.vllm, url)
    if state.max_model_len is not None and state.max_model_len < context:
        problem = f"is for {state.max_model_len} tokens, the stage needs {context}"
        remedy = f"start the server with --max-model-len {context}"
        raise SpecError([FieldProblem(url, problem, remedy)])


def _check_status(answer: httpx2.Response, url: str, operation: str) -> None:
    """Raises Fault for what another try may mend, RolloutError or SpecError for what not."""
    status = answer.status_code
    if status == httpx2.codes.OK:
        return
    detail = f"{status}: {answer.text[:500]}"
    if status == httpx2.codes.UNAUTHORIZED:
        remedy = f"the server and the trainer need the same {TOKEN_FILE_VARIABLE}"
        raise SpecError([FieldProblem(url, f"{operation}: {detail}", remedy)])
    if status == httpx2.codes.CONFLICT:
        raise Fault(Kind.WRONG_WEIGHTS, url, operation, detail)
    if status >= 500:
        raise Fault(Kind.FAILED, url, operation, detail)
    raise RolloutError(f"{url}: {operation}: {detail}; it would be refused again")
