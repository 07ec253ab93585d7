"""A port for whoever watches a stage: /progress for the operator, /metrics for Prometheus."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from threading import Thread
from typing import Any

from prism_api.reporting import METRICS_PATH, PROGRESS_PATH, TRAINER_PORT_VARIABLE
from prism_api.stage_config import StageConfig
from prism_trainer.reports import read_progress

_PATIENCE_SECONDS = 10.0
"""With somebody who connects and says nothing."""
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """To one request."""

    status: HTTPStatus
    media_type: str
    body: str


def serve_progress(config: StageConfig, folder: Path, environment: Mapping[str, str]) -> None:
    """Answer on the port that the environment names, if it does, until this process ends.

    A port that cannot be had is no reason not to train: it is said on standard error.
    """
    port = environment.get(TRAINER_PORT_VARIABLE)
    if not port:
        return
    try:
        server = _Server(int(port), partial(answer, config, folder))
    except (OSError, OverflowError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no port number"
        sys.stderr.write(
            f"{TRAINER_PORT_VARIABLE}: {port} cannot be listened on ({reason}); training goes on, "
            "but nobody can ask for progress or metrics\n"
        )
        return
    Thread(target=server.serve_forever, name="progress", daemon=True).start()


def answer(config: StageConfig, folder: Path, path: str) -> Answer:
    """What there is to say at a path of the port."""
    path = path.partition("?")[0]
    if path not in (PROGRESS_PATH, METRICS_PATH):
        known = f"nothing is here; ask for {PROGRESS_PATH} or {METRICS_PATH}\n"
        return Answer(HTTPStatus.NOT_FOUND, _TEXT, known)
    progress = read_progress(config, folder)
    if path == METRICS_PATH:
        from prism_trainer.exposition import CONTENT_TYPE, exposition

        return Answer(HTTPStatus.OK, CONTENT_TYPE, exposition(config, progress))
    if progress is None:
        text = "no iteration is done yet; ask again\n"
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, text)
    return Answer(HTTPStatus.OK, "application/json", progress.model_dump_json(by_alias=True))


class _Server(ThreadingTCPServer):
    """Not HTTPServer, which asks the name service for this machine's name before it answers."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        super().__init__(("", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone away or gets no answer; the log is the training's."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "prism", ""
    timeout = _PATIENCE_SECONDS

    def do_GET(self) -> None:
        answer = self.server.answer(self.path)
        body = answer.body.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Polls every few seconds are no news."""
