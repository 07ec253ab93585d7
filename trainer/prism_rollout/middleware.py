"""The ASGI layer around a vLLM server: who may ask, for which weights, and their update.

`--middleware prism_rollout.middleware.RolloutMiddleware`. It sees every request before vLLM does
(vLLM's own `--api-key` guards a few prefixes only).
"""

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from prism_api.base import parse_json
from prism_api.errors import FieldProblem, SpecError, StoreError
from prism_api.rollout import (
    DIGEST_HEADER,
    OPEN_PATHS,
    WEIGHTS_PATH,
    ServerState,
    Weights,
    read_token,
)
from prism_rollout.update import UpdateFailed, WeightUpdater

FOLDER_VARIABLE = "PRISM_ROLLOUT_FOLDER"
"""Environment: where fetched weights go."""
MODEL_VARIABLE = "PRISM_ROLLOUT_MODEL"
"""Environment: the folder of the model that the server was started with."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_MAX_BODY_BYTES = 1 << 16
_DIGEST_BYTES = DIGEST_HEADER.encode()


class RolloutMiddleware:
    """Lets in who has the token, and only to the weights that were asked for.

    Raises SpecError when it is built without a token, so that no open server ever starts.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._expected = b"Bearer " + read_token(os.environ).encode()
        folder, model = (Path(os.environ[name]) for name in (FOLDER_VARIABLE, MODEL_VARIABLE))
        self._updater = WeightUpdater(folder, model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on to vLLM."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            return await _refuse(scope, send, 401, "the run's bearer token is missing or wrong")
        if scope["type"] == "http" and scope["path"] == WEIGHTS_PATH:
            return await self._weights(scope, receive, send)
        if self._updater.is_changing:
            return await _refuse(scope, send, 503, "the weights are being replaced")
        wanted = headers.get(_DIGEST_BYTES)
        if wanted is not None and wanted.decode("latin-1") != self._digest():
            problem = f"weights {wanted[:12]!r} were asked for, {self._digest()[:12]!r} are loaded"
            return await _refuse(scope, send, 409, problem)
        with self._updater.request():
            await self._app(scope, receive, self._signed(send))

    def _signed(self, send: Send) -> Send:
        """Names in each answer the weights that are in use when it begins: an update may have come
        between a request and its turn."""

        async def signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (_DIGEST_BYTES, self._digest().encode())]
                message = {**message, "headers": headers}
            await send(message)

        return signed

    def _digest(self) -> str:
        current = self._updater.current
        return current.checkpoint.digest if current else ""

    async def _weights(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine = scope["app"].state.engine_client
        if scope["method"] == "POST":
            try:
                wanted = parse_json(Weights, await _body(receive), "the request")
                await self._updater.update(engine, wanted)
            except SpecError as error:
                return await _refuse(scope, send, 400, str(error))
            except StoreError as error:
                return await _refuse(scope, send, 422, str(error))
            except UpdateFailed as error:
                return await _refuse(scope, send, 500, str(error))
        elif scope["method"] != "GET":
            return await _refuse(scope, send, 405, "give GET or POST")
        state = ServerState(
            vllm=_vllm_version(),
            max_model_len=engine.model_config.max_model_len,
            weights=self._updater.current,
        )
        await _answer(send, 200, state.to_json().encode())


def _vllm_version() -> str:
    import vllm

    return str(vllm.__version__)


async def _body(receive: Receive) -> bytes:
    """The request's body; raises SpecError if no document of ours is so long."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if sum(map(len, parts)) > _MAX_BODY_BYTES:
            problem = FieldProblem("$", f"has more than {_MAX_BODY_BYTES} bytes", "send Weights")
            raise SpecError([problem], "the request")
        if not message.get("more_body", False):
            return b"".join(parts)


async def _refuse(scope: Scope, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": message})
    else:
        await _answer(send, status, json.dumps({"error": {"message": message}}).encode())


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
