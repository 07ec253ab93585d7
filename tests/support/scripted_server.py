"""A real HTTP server on this machine that behaves as a rollout server, or as badly as told."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prism_api.rollout import DIGEST_HEADER

Reply = Callable[["Handler"], None]


class Scripted:
    """Answers each path by its reply; counts the requests."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"vllm": "0.32.0", "maxModelLen": 512, "weights": None}
        self.answer: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.tokens = 0
        self.replies: dict[str, Reply] = {
            "GET /prism/weights": lambda h: h.reply(200, self.state),
            "POST /prism/weights": self._load,
            "POST /v1/chat/completions": lambda h: h.reply(200, self.answer),
            "GET /metrics": self._metrics,
        }
        self.url = ""

    def _load(self, handler: "Handler") -> None:
        self.state = {**self.state, "weights": handler.body}
        handler.reply(200, self.state)

    def _metrics(self, handler: "Handler") -> None:
        self.tokens += 1
        handler.reply(200, metrics(self.tokens))


def metrics(tokens: float) -> str:
    """What is read of vLLM's metrics."""
    return (
        "# HELP vllm:generation_tokens_total Number of generation tokens processed.\n"
        f'vllm:generation_tokens_total{{engine="0",model_name="policy"}} {tokens}\n'
        'vllm:prompt_tokens_total{engine="0",model_name="policy"} 7.0\n'
    )


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    script: Scripted
    body: Any

    def reply(self, status: int, content: Any, weights: str | None = None) -> None:
        """A text, or a JSON document, made with the weights that were asked for or with others."""
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        if DIGEST_HEADER in self.headers:
            self.send_header(DIGEST_HEADER, weights or self.headers[DIGEST_HEADER])
        self.end_headers()
        self.wfile.write(text.encode())

    def hang(self, seconds: float = 30) -> None:
        """Say nothing until the client goes away."""
        deadline = time.monotonic() + seconds
        self.connection.settimeout(0.1)
        while time.monotonic() < deadline:
            with suppress(TimeoutError):
                if not self.connection.recv(1):
                    break
        self.close_connection = True

    def hang_up(self) -> None:
        """End the connection without an answer, as a killed server does."""
        self.connection.close()
        self.close_connection = True

    def do_GET(self) -> None:
        """As the script says."""
        self._handle("GET")

    def do_POST(self) -> None:
        """As the script says."""
        self._handle("POST")

    def _handle(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(length)) if length else None
        key = f"{method} {self.path}"
        self.script.counts[key] += 1
        self.script.headers.append({k.lower(): v for k, v in self.headers.items()})
        with suppress(OSError):
            self.script.replies[key](self)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # or a burst of connections has to wait for seconds


@contextmanager
def scripted_server() -> Iterator[Scripted]:
    """A server that works until its script is changed."""
    script = Scripted()
    handler = type("Bound", (Handler,), {"script": script})
    server = _Server(("127.0.0.1", 0), handler)
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
