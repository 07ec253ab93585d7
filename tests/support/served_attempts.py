"""An attempt with rollout servers on this machine; a small program stands for vLLM."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import python_path
from prism_api.resources import DataSource, Rollout
from prism_api.stage_config import StageConfig
from prism_operator.local.servers import with_servers
from stage_builders import rlvr_stage, stage_config

STUB = """
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from prism_api.process import die_with_parent, inherited_ancestor
from prism_api.rollout import read_token
die_with_parent(inherited_ancestor())
port = int(next(a for a in sys.argv if a.startswith("--port=")).partition("=")[2])
ready_at = 0
exec(os.environ.get("STUB", ""))
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        known = self.headers["Authorization"] == "Bearer " + read_token(os.environ)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ok = known and self.path == "/v1/chat/completions" and body["max_completion_tokens"] == 1
        self.send_response((200 if ok else 400) if time.monotonic() > ready_at else 503)
        self.end_headers()
        self.wfile.write(b"" if ok else b"no")
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
"""Runs what its variable STUB says, then answers as a server does that was given a token."""
PATIENCE_SECONDS = 30


@dataclass
class Workplace:
    """The work folder of an attempt, with the stub in the place of the real server."""

    folder: Path
    site: Path

    def start(self, program: str, stub: str = "", shown: str = "") -> "subprocess.Popen[str]":
        """Run a Python program as the attempt's command, where these GPUs are shown."""
        seen = {"CUDA_VISIBLE_DEVICES": shown} if shown else {}
        return subprocess.Popen(
            with_servers(self.folder, [sys.executable, "-c", program]),
            env={**os.environ, "PYTHONPATH": python_path(self.site), "STUB": stub} | seen,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, program: str, stub: str = "", shown: str = "") -> "Ended":
        """The same to its end."""
        with self.start(program, stub, shown) as process:
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        return Ended(process.returncode, output, errors)

    @property
    def message(self) -> str:
        """What is left for the user."""
        document: dict[str, Any] = json.loads((self.folder / "outcome.json").read_text())
        return str(document["message"])


@dataclass
class Ended:
    """How it went."""

    code: int
    output: str
    errors: str


def a_config(folder: Path, replicas: int = 1, gpus: int = 0) -> StageConfig:
    """Of a stage that samples from servers."""
    stage = rlvr_stage(DataSource(uri="file:///none.parquet"))
    config = stage_config(stage, folder / "model", folder)
    rollout = Rollout(backend="vllm", replicas=replicas, gpus_per_replica=gpus)
    return config.model_copy(update={"rollout": rollout})


def wait_until(happened: Callable[[], bool]) -> None:
    """Fails if it does not in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
