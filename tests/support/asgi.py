"""ASGI applications called without a server."""

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

Message = MutableMapping[str, Any]


@dataclass
class Answer:
    """What an application sent."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        """Of an HTTP answer."""
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        """Of an HTTP answer."""
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> str:
        """Of an HTTP answer."""
        return b"".join(m.get("body", b"") for m in self.messages[1:]).decode()


def call(
    app: Any,
    path: str,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    body: bytes = b"",
    kind: str = "http",
    engine: object = None,
) -> Answer:
    """One request, as uvicorn hands it to the application of a server with this engine."""
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        "app": SimpleNamespace(state=SimpleNamespace(engine_client=engine)),
    }
    answer = Answer()

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        answer.messages.append(message)

    asyncio.run(app(scope, receive, send))
    return answer
