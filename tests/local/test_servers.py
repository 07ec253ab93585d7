"""An attempt between the start and the end of its servers; a small program stands for vLLM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import python_path
from prism_api.base import parse_json
from prism_api.errors import SpecError
from prism_api.resources import (
    DataSource,
    Evaluation,
    ModelSource,
    ResolvedWorkers,
    Rollout,
    Workers,
)
from prism_api.rollout import server_gpus
from prism_api.stage_config import StageConfig
from prism_operator.local.servers import (
    gpu_choice,
    new_token,
    port_of,
    reserved_port,
    server_arguments,
    with_servers,
)
from prism_store.store import open_store
from stage_builders import rlvr_stage, stage_config

_STUB = """
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
_PATIENCE_SECONDS = 30


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


def test_a_relative_work_folder_suits_servers_that_work_elsewhere(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder.parent)
    relative = Workplace(Path(place.folder.name), place.site)

    ended = relative.run("pass", stub="os.chdir('/')")

    assert (ended.code, ended.errors) == (0, "")


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
    listening = {
        c.laddr.port for c in psutil.net_connections("tcp") if c.laddr and c.status == "LISTEN"
    }
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


def test_a_server_that_refuses_to_answer_ends_the_attempt_at_once_with_what_it_says(
    place: Workplace,
) -> None:
    """As one does with a token of its own."""
    ended = place.run(
        "print('trained')",
        stub="def read_token(_): return 'another'",
    )
    assert (ended.code, ended.output) == (1, "")
    assert "refuses to answer (400: no)" in place.message


def test_a_server_that_is_not_ready_yet_is_waited_for(place: Workplace) -> None:
    ended = place.run(
        "print('trained')",
        stub="ready_at = time.monotonic() + 1",
    )
    assert (ended.code, ended.output) == (0, "trained\n")


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


def test_a_signal_to_the_whole_group_reaches_the_command_once_and_no_server(
    place: Workplace,
) -> None:
    """So the trainer has time to save itself, with servers that still answer."""
    program = (
        "import os, pathlib, signal, time, urllib.request\n"
        "heard = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: heard.append(1))\n"
        f"pathlib.Path({str(place.folder / 'up')!r}).touch()\n"
        "while not heard: time.sleep(0.02)\n"
        "time.sleep(1)\n"
        "url = os.environ['PRISM_ROLLOUT_URLS'] + '/v1/chat/completions'\n"
        "try: urllib.request.urlopen(url, b'{\"max_completion_tokens\": 1}')\n"
        "except urllib.error.HTTPError as answer: print(len(heard), answer.code)\n"
        "raise SystemExit(75)\n"
    )
    with place.start(program) as process:
        wait_until((place.folder / "up").exists)
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = process.communicate(timeout=_PATIENCE_SECONDS)
    assert (process.returncode, output) == (75, "1 400\n"), errors


def test_a_command_that_is_stopped_before_it_can_hear_of_it_was_stopped_on_request(
    place: Workplace,
) -> None:
    program = f"import pathlib, time; pathlib.Path({str(place.folder / 'up')!r}).touch(); "
    with place.start(program + "time.sleep(60)") as process:
        wait_until((place.folder / "up").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(_PATIENCE_SECONDS) == 75


def test_a_command_that_somebody_else_ends_was_not(place: Workplace) -> None:
    ended = place.run("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert ended.code not in (0, 75)


def test_a_request_to_stop_in_the_first_moment_is_answered_and_starts_nothing(
    place: Workplace,
) -> None:
    with place.start("print('trained')", stub="time.sleep(60)") as process:
        wait_until(lambda: catches_sigterm(process.pid))
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=_PATIENCE_SECONDS)
    assert (process.returncode, output) == (75, "")


def catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


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


def test_a_reserved_port_is_given_to_nobody_but_the_server_that_names_it() -> None:
    """Even if that binds it much later, and as vLLM does, so that two could share it."""
    with reserved_port() as holder:
        others = [reserved_port() for _ in range(2000)]
        assert port_of(holder) not in {port_of(other) for other in others}
        for other in others:
            other.close()
        with socket.socket() as listener, socket.socket() as stranger:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                listener.setsockopt(socket.SOL_SOCKET, option, 1)
            listener.bind(("127.0.0.1", port_of(holder)))
            listener.listen()
            with socket.create_connection(("127.0.0.1", port_of(holder)), timeout=5):
                listener.accept()[0].close()
            with pytest.raises(OSError, match="in use"):
                stranger.bind(("127.0.0.1", port_of(holder)))


def test_an_attempt_holds_its_servers_port_before_they_listen(place: Workplace) -> None:
    with place.start("print('trained')", stub="time.sleep(60)") as process:
        wait_until(lambda: bool(psutil.Process(process.pid).children()))
        (server,) = psutil.Process(process.pid).children()
        wait_until(lambda: "--model" in " ".join(server.cmdline()))
        (port,) = (a.partition("=")[2] for a in server.cmdline() if a.startswith("--port="))
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", int(port)))
        process.terminate()
        assert process.wait(_PATIENCE_SECONDS) == 75


def fetched_by(attempt: Path) -> Path:
    """What a server leaves when it is killed."""
    weights = attempt / "rollout-0/weights/v1-abc/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text("gigabytes")
    (attempt / "rollout-0/log.txt").write_text("what happened")
    return weights


@pytest.mark.parametrize("code", [0, 1, 75])
def test_of_servers_that_have_ended_only_the_logs_stay_on_disk(place: Workplace, code: int) -> None:
    earlier = fetched_by(place.folder.parent / "a1")
    now = place.folder / "rollout-0/weights/v2-def"
    program = f"import pathlib; assert not pathlib.Path({str(earlier)!r}).exists(); "
    program += f"pathlib.Path({str(now)!r}).mkdir(parents=True); raise SystemExit({code})"
    ended = place.run(program)
    assert ended.code == code, ended.errors
    assert (place.folder.parent / "a1/rollout-0/log.txt").read_text() == "what happened"
    assert [path.name for path in (place.folder / "rollout-0").iterdir()] == ["log.txt"]


@pytest.mark.parametrize(("code", "is_kept"), [(0, False), (1, True), (75, True)])
def test_published_weights_go_with_the_end_of_the_stage(
    place: Workplace, code: int, is_kept: bool
) -> None:
    config = parse_json(StageConfig, (place.folder / "stage.json").read_bytes(), "stage.json")
    store = open_store(config.stage_uri)
    store.put("weights/v3/model.safetensors", b"gigabytes")
    store.put("a1/result.json", b"{}")
    assert place.run(f"raise SystemExit({code})").code == code
    assert store.exists("weights/v3/model.safetensors") == is_kept
    assert store.exists("a1/result.json")


def test_the_token_is_new_and_private_each_time(tmp_path: Path) -> None:
    first = new_token(tmp_path / "token").read_text()
    second = new_token(tmp_path / "token").read_text()
    assert first != second
    assert min(len(first), len(second)) >= 32
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0


def test_servers_have_gpus_of_their_own_after_the_trainers(place: Workplace) -> None:
    config = a_config(place.folder, replicas=2, gpus=2)
    trainers = ResolvedWorkers(replicas=3, gpus_per_replica=1, precision="bf16")
    config = config.model_copy(update={"workers": trainers})
    (place.folder / "stage.json").write_text(config.to_json())
    ended = place.run(
        "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))",
        stub="print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)",
        shown="7,6,5,4,3,2,1,0",
    )
    logs = [(place.folder / f"rollout-{i}/log.txt").read_text() for i in range(2)]
    assert (logs, ended.output) == (["4,3\n", "2,1\n"], "7,6,5,4,3,2,1,0\n"), ended.errors


@given(st.integers(1, 8), st.integers(0, 4), st.integers(1, 8), st.integers(1, 4))
def test_no_gpu_is_given_away_twice(pods: int, each: int, servers: int, of_one: int) -> None:
    workers = Workers(replicas=pods, gpus_per_replica=each)
    shares = server_gpus(workers, Rollout(replicas=servers, gpus_per_replica=of_one))
    trainers = range(workers.world_size if each else 0)
    numbers = [*trainers, *(number for share in shares for number in share)]
    assert numbers == list(range(len(trainers) + servers * of_one))


def test_gpus_are_chosen_among_those_that_are_shown() -> None:
    assert gpu_choice(range(2, 4), {}) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    shown = {"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b,GPU-c"}
    assert gpu_choice(range(1, 3), shown) == {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-c"}
    assert gpu_choice(range(0), shown) == {}
    with pytest.raises(SpecError, match="CUDA_VISIBLE_DEVICES: shows 3 GPUs, 4 are needed"):
        gpu_choice(range(2, 4), shown)


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
