"""An attempt between the start and the end of its servers; a small program stands for vLLM."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from commands import python_path
from prism_api.resources import DataSource, Evaluation, ModelSource, Rollout
from prism_api.stage_config import StageConfig
from prism_operator.local.servers import new_token, server_arguments, with_servers
from stage_builders import rlvr_stage, stage_config

_STUB = """
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from prism_api.process import die_with_parent, inherited_ancestor
from prism_api.rollout import read_token
die_with_parent(inherited_ancestor())
port = int(next(a for a in sys.argv if a.startswith("--port=")).partition("=")[2])
exec(os.environ.get("STUB", ""))
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        known = self.headers["Authorization"] == "Bearer " + read_token(os.environ)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ok = known and self.path == "/v1/chat/completions" and body["max_completion_tokens"] == 1
        self.send_response(200 if ok else 400)
        self.end_headers()
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
_PATIENCE_SECONDS = 30


@dataclass
class Workplace:
    """The work folder of an attempt, with the stub in the place of the real server."""

    folder: Path
    site: Path

    def start(self, program: str, stub: str = "") -> "subprocess.Popen[str]":
        """Run a Python program as the attempt's command."""
        return subprocess.Popen(
            with_servers(self.folder, [sys.executable, "-c", program]),
            env={**os.environ, "PYTHONPATH": python_path(self.site), "STUB": stub},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, program: str, stub: str = "") -> "Ended":
        """The same to its end."""
        with self.start(program, stub) as process:
            output, errors = process.communicate(timeout=_PATIENCE_SECONDS)
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
    stage = rlvr_stage(DataSource(uri="file:///none.parquet"))
    config = stage_config(stage, folder / "model", folder)
    rollout = Rollout(backend="vllm", replicas=replicas, gpus_per_replica=gpus)
    return config.model_copy(update={"rollout": rollout})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    package = tmp_path / "site" / "prism_rollout"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(_STUB)
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "stage.json").write_text(a_config(tmp_path).to_json())
    before = set(psutil.pids())
    yield Workplace(folder, tmp_path / "site")
    left = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before]
    assert not [p for p in left if str(tmp_path) in " ".join(p.info["cmdline"] or [])]


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_command_gets_addresses_of_servers_that_answer_its_token(place: Workplace) -> None:
    (place.folder / "stage.json").write_text(a_config(place.folder, replicas=2).to_json())
    ended = place.run(
        "import json, os, urllib.request\n"
        "token = open(os.environ['PRISM_ROLLOUT_TOKEN_FILE']).read()\n"
        "for url in os.environ['PRISM_ROLLOUT_URLS'].split(','):\n"
        "    body = json.dumps({'max_completion_tokens': 1}).encode()\n"
        "    headers = {'Authorization': 'Bearer ' + token}\n"
        "    request = urllib.request.Request(url + '/v1/chat/completions', body, headers)\n"
        "    print(urllib.request.urlopen(request).status)\n"
    )
    assert (ended.code, ended.output) == (0, "200\n200\n"), ended.errors


@pytest.mark.parametrize("code", [0, 1, 64, 65, 70, 74, 75])
def test_its_exit_code_is_the_commands(place: Workplace, code: int) -> None:
    assert place.run(f"raise SystemExit({code})").code == code


def test_servers_end_with_the_command(place: Workplace) -> None:
    ended = place.run("import os; print(os.environ['PRISM_ROLLOUT_URLS'])")
    port = int(ended.output.rpartition(":")[2])
    listening = {c.laddr.port for c in psutil.net_connections("tcp") if c.status == "LISTEN"}
    assert port not in listening


def test_a_server_that_does_not_start_is_an_error_that_names_its_log(place: Workplace) -> None:
    ended = place.run("print('trained')", stub="print('no memory'); sys.exit(3)")
    assert (ended.code, ended.output) == (1, "")
    assert "ended with exit code 3; see" in place.message
    assert (place.folder / "rollout-0" / "log.txt").read_text() == "no memory\n"


def test_a_server_that_can_never_start_is_a_permanent_failure_with_its_words(
    place: Workplace,
) -> None:
    ended = place.run("print('trained')", stub="print('--gpus: no such thing'); sys.exit(64)")
    assert (ended.code, ended.output) == (64, "")
    assert place.message.startswith("rollout: --gpus: no such thing")


def test_a_server_that_ends_ends_the_command_at_once(place: Workplace) -> None:
    started = time.monotonic()
    ended = place.run(
        "import time; time.sleep(60)",
        stub="import threading; threading.Timer(2, os._exit, [9]).start()",
    )
    assert ended.code == 1
    assert "ended with exit code 9" in place.message
    assert time.monotonic() - started < 20


def test_a_request_to_stop_reaches_the_command(place: Workplace) -> None:
    program = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"pathlib.Path({str(place.folder / 'up')!r}).touch()\n"
        "time.sleep(60)\n"
    )
    with place.start(program) as process:
        wait_until((place.folder / "up").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_PATIENCE_SECONDS) == 75


def test_a_request_to_stop_before_the_servers_are_ready_starts_nothing(place: Workplace) -> None:
    with place.start("print('trained')", stub="time.sleep(60)") as process:
        wait_until((place.folder / "rollout-0" / "log.txt").exists)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=_PATIENCE_SECONDS)
    assert (process.returncode, output) == (75, "")


def test_nobody_outlives_a_killed_attempt(place: Workplace) -> None:
    up = place.folder / "up"
    # As the launcher does, the command asks to end with its parent.
    program = (
        "from prism_api.process import die_with_parent, inherited_ancestor\n"
        "die_with_parent(inherited_ancestor())\n"
        f"import pathlib, time; pathlib.Path({str(up)!r}).touch(); time.sleep(60)"
    )
    with place.start(program) as process:
        wait_until(up.exists)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        process.kill()
    wait_until(lambda: not any(child.is_running() for child in children))


def test_the_token_is_new_and_private_each_time(tmp_path: Path) -> None:
    first = new_token(tmp_path / "token").read_text()
    second = new_token(tmp_path / "token").read_text()
    assert first != second
    assert min(len(first), len(second)) >= 32
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0


def test_a_server_is_told_the_runs_model_and_the_longest_context(tmp_path: Path) -> None:
    config = a_config(tmp_path, gpus=3)
    assert server_arguments(config) == [
        f"--model={tmp_path / 'model'}",
        "--gpus=3",
        "--max-model-len=104",
    ]
    longer = Evaluation(data=DataSource(uri="file:///e.parquet"), max_response_tokens=1000)
    hub = ModelSource(uri="hf://Qwen/Qwen3-VL-4B-Instruct")
    config = config.model_copy(update={"evaluation": longer, "model": hub})
    assert server_arguments(config)[0] == "--model=Qwen/Qwen3-VL-4B-Instruct"
    assert server_arguments(config)[2] == "--max-model-len=1064"
