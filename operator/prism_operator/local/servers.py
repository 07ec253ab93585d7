"""Runs one attempt of a stage between the start and the end of its own rollout servers.

It reads `stage.json` of the work folder, starts the servers, waits until each has generated a
token, runs the command with their addresses in its environment, and ends them with it. Its exit
code is the command's. Servers and command have sessions of their own, so that a signal to this
process's group is this process's alone to pass on. Nobody outlives it: the kernel ends all of them
with this process.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from prism_api.base import parse_json
from prism_api.errors import FieldProblem, PrismError, RolloutError, SpecError, StoreError
from prism_api.exit_codes import PERMANENT, ExitCode
from prism_api.names import ANCESTOR_VARIABLE
from prism_api.process import die_with_parent, inherited_ancestor
from prism_api.rollout import (
    GPUS_VARIABLE,
    PUBLISHED_FOLDER,
    SERVED_MODEL,
    TOKEN_FILE_VARIABLE,
    URLS_VARIABLE,
    server_gpus,
    shown_gpus,
)
from prism_api.stage_config import StageConfig
from prism_api.uris import local_path, scheme
from prism_operator.planning.serving import context_tokens
from prism_store.store import open_store

_READY_SECONDS = 1800.0
_POLL_SECONDS = 0.2
_STOP_SECONDS = 10.0


class ServerProcess:
    """A rollout server as a child of this process."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        token_file: Path,
        port: int,
        gpus: Sequence[int] = (),
    ) -> None:
        self._token_file = token_file
        self.url, self.log = f"http://127.0.0.1:{port}", folder / "log.txt"
        folder.mkdir(parents=True, exist_ok=True)
        where = [f"--port={port}", f"--folder={folder}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prism_rollout", *arguments, *where],
                env=_environment(token_file) | gpu_choice(gpus, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process that answers; its children do the work."""
        return self._process.pid

    def check(self) -> None:
        """Raises RolloutError if the server has ended, SpecError if it could not have started."""
        code = self._process.poll()
        if code is None:
            return
        if code in PERMANENT:
            last_line = self.log.read_text().strip().rpartition("\n")[2]
            raise SpecError([FieldProblem("rollout", last_line, "or set backend: inprocess")])
        raise RolloutError(
            f"the rollout server at {self.url} ended with exit code {code}; see {self.log}"
        )

    def wait(self, seconds: float, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Whether it has generated a token before it was given up; raises RolloutError if it
        ends, refuses to, or is not ready in time."""
        deadline = time.monotonic() + seconds
        while not given_up():
            self.check()
            if self._has_generated():
                return True
            if time.monotonic() > deadline:
                raise RolloutError(
                    f"the rollout server at {self.url} was not ready after {seconds:.0f} s; "
                    f"see {self.log}"
                )
            time.sleep(_POLL_SECONDS)
        return False

    def ask_to_stop(self) -> None:
        """Do not wait for it."""
        self._process.terminate()

    def stop(self) -> None:
        """End it, politely at first; its children end with it."""
        self.ask_to_stop()
        self.wait_for_end()

    def wait_for_end(self) -> None:
        """After it was asked to stop; it is killed if it takes too long."""
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def _has_generated(self) -> bool:
        """Readiness is a token, not a port that is open."""
        message = {"role": "user", "content": "?"}
        body = {"model": SERVED_MODEL, "messages": [message], "max_completion_tokens": 1}
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
            json.dumps(body).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": f"Bearer {self._token_file.read_text().strip()}",
            },
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=60) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as refusal:
            if refusal.code < 500:  # it is up, and will say so again
                said = f"{refusal.code}: {refusal.read(500).decode(errors='replace')}"
                raise RolloutError(
                    f"the rollout server at {self.url} refuses to answer ({said}); see {self.log}"
                ) from None
        except OSError:
            pass  # nobody listens yet
        return False


def new_token(path: Path) -> Path:
    """A file with a new token that only this user can read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32))
    return path


def server_arguments(config: StageConfig) -> list[str]:
    """What `python -m prism_rollout` is told about a stage's server; pure.

    It serves the run's own model: the trainer brings the weights before it samples.
    """
    rollout, uri = config.rollout, config.model.uri
    assert rollout is not None, "only stages that sample have servers"
    model = uri.removeprefix("hf://") if scheme(uri) == "hf" else str(local_path(uri))
    return [
        f"--model={model}",
        f"--gpus={rollout.gpus_per_replica}",
        f"--max-model-len={context_tokens(config.stage, config.evaluation)}",
    ]


def with_servers(work: Path, command: Sequence[str]) -> list[str]:
    """The command that runs `command` for an attempt whose rollout servers it starts first."""
    program = [sys.executable, "-m", "prism_operator.local.serve"]
    return [*program, f"--work-folder={work}", "--", *command]


def gpu_choice(numbers: Sequence[int], environment: Mapping[str, str]) -> dict[str, str]:
    """The variable that shows a process these GPUs only, of those that the environment shows; pure.

    Without numbers nothing changes. Raises SpecError if the environment shows fewer.
    """
    if not numbers:
        return {}
    shown = environment.get(GPUS_VARIABLE)
    if shown is None:
        return {GPUS_VARIABLE: ",".join(map(str, numbers))}
    names = shown_gpus(shown)
    if len(names) <= max(numbers):
        problem = f"shows {len(names)} GPUs, {max(numbers) + 1} are needed"
        raise SpecError([FieldProblem(GPUS_VARIABLE, problem, "show more, or ask for fewer")])
    return {GPUS_VARIABLE: ",".join(names[number] for number in numbers)}


def run_served(received: list[int]) -> int:
    """Exit code of an attempt with servers, as the command line names it; `received` are the
    signals so far, and grows."""
    parser = argparse.ArgumentParser(prog="python -m prism_operator.local.serve")
    parser.add_argument("--work-folder", type=Path, required=True, help="of the attempt")
    parser.add_argument("command", nargs="+", help="after --")
    arguments = parser.parse_args()
    die_with_parent(inherited_ancestor())
    folder: Path = arguments.work_folder.absolute()  # servers work in folders of their own
    try:
        return _Attempt(folder, arguments.command, received).run()
    except PrismError as error:
        outcome = {"code": int(error.exit_code), "message": str(error)}
        (folder / "outcome.json").write_text(json.dumps(outcome))
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)


class _Attempt:
    """The servers, then the command, until the command or a server ends."""

    def __init__(self, folder: Path, command: Sequence[str], signals: list[int]) -> None:
        self._folder, self._command = folder, command
        self._config = parse_json(StageConfig, (folder / "stage.json").read_bytes(), "stage.json")
        self._signals = signals
        """Passed on by the loop, so that one that comes before the command runs is not lost."""

    def run(self) -> int:
        """Exit code of the command; raises RolloutError if a server ends before it."""
        token_file = new_token(self._folder / "rollout-token")
        servers: list[ServerProcess] = []
        ports = ExitStack()
        for attempt in self._folder.parent.iterdir():
            _keep_only_logs(attempt)  # of an attempt that was killed, whatever it was about to do
        try:
            self._start(servers, token_file, ports)
            for server in servers:
                server.wait(_READY_SECONDS, lambda: bool(self._signals))
            if self._signals:
                return int(ExitCode.SAVED)
            code = self._train(servers, token_file)
            if code == ExitCode.DONE:
                with suppress(StoreError):  # the stage is done all the same
                    open_store(self._config.stage_uri).delete(PUBLISHED_FOLDER)
            return code
        finally:
            for server in servers:
                server.ask_to_stop()
            for server in servers:
                server.wait_for_end()
            ports.close()
            _keep_only_logs(self._folder)

    def _start(self, servers: list[ServerProcess], token_file: Path, ports: ExitStack) -> None:
        """Add the stage's servers to the list, unless a stop is requested."""
        config = self._config
        assert config.rollout is not None, "only stages that sample have servers"
        arguments = server_arguments(config)
        for number, gpus in enumerate(server_gpus(config.workers, config.rollout)):
            if not self._signals:
                folder = self._folder / f"rollout-{number}"
                port = port_of(ports.enter_context(reserved_port()))
                server = ServerProcess(arguments, folder, token_file, port, gpus)
                servers.append(server)

    def _train(self, servers: Sequence[ServerProcess], token_file: Path) -> int:
        """Run the command; one that a signal ends before it can catch it has nothing to save."""
        urls, passed_on = ",".join(server.url for server in servers), set[int]()
        trainer = subprocess.Popen(
            self._command,
            env={**_environment(token_file), URLS_VARIABLE: urls},
            start_new_session=True,
        )
        try:
            while trainer.poll() is None:
                while self._signals:
                    passed_on.add(self._signals[0])
                    trainer.send_signal(self._signals.pop(0))
                for server in servers:
                    server.check()
                time.sleep(_POLL_SECONDS)
        finally:
            trainer.kill()
        code = trainer.wait()
        return int(ExitCode.SAVED) if -code in passed_on else code


def _keep_only_logs(attempt: Path) -> None:
    """Delete what an attempt's servers have fetched and cached: two versions of all weights each,
    which nobody reads again and hard links keep on the disk."""
    for folder in attempt.glob("rollout-*/*/"):
        shutil.rmtree(folder, ignore_errors=True)


def _environment(token_file: Path) -> dict[str, str]:
    """Of servers and trainer, which end with this process."""
    own = {TOKEN_FILE_VARIABLE: str(token_file), ANCESTOR_VARIABLE: str(os.getpid())}
    return {**os.environ, **own}


def reserved_port() -> socket.socket:
    """A port of this machine for a server to listen on, which nobody else is given as long as the
    socket is open: one server binds its port only after minutes, and a second one beside it would
    share it, as vLLM allows."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    # After it was bound: whoever names the port and says the same may bind it too.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return holder


def port_of(holder: socket.socket) -> int:
    """Its number."""
    port: int = holder.getsockname()[1]
    return port
