"""Operators as the chart starts them: processes of `python -m prism_operator` with settings."""

import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster_processes import ClusterProcess
from prism_operator.local.servers import port_of, reserved_port

LEASE: Mapping[str, str] = {
    "PRISM_LEASE_SECONDS": "3",
    "PRISM_RENEW_DEADLINE_SECONDS": "2",
    "PRISM_RENEW_SECONDS": "0.5",
}
"""A takeover in seconds."""
IMAGES: Mapping[str, str] = {
    "PRISM_TRAINER_IMAGE": "registry.example/trainer:1",
    "PRISM_ROLLOUT_IMAGE": "registry.example/rollout:1",
}


@dataclass
class Replica:
    """One of several operators."""

    process: ClusterProcess
    port: int

    def answer(self, path: str) -> tuple[int, str]:
        """HTTP status and text of a path; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    @property
    def leads(self) -> bool:
        """Whether it says that it does."""
        return self.answer("/readyz") == (200, "leader\n")

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone."""
        try:
            self.process.check()
        except RuntimeError:
            return True
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)


@contextmanager
def a_replica(
    kubeconfig: Path,
    namespace: str,
    name: str,
    folder: Path,
    settings: Mapping[str, str],
    program: tuple[str, ...] = ("-m", "prism_operator"),
) -> Iterator[Replica]:
    """An operator whose Lease lies in a namespace, for the time of the block; its log is
    `folder/name.log`."""
    holder = reserved_port()
    variables = {
        "KUBECONFIG": str(kubeconfig),
        "POD_NAME": name,
        "POD_NAMESPACE": namespace,
        "PRISM_HTTP_PORT": str(port_of(holder)),
        "PRISM_LOG_FORMAT": "text",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    given = [
        f"{key}={value}" for key, value in {**IMAGES, **LEASE, **variables, **settings}.items()
    ]
    command = ["/usr/bin/env", *given, sys.executable, *program]
    process = ClusterProcess(command, folder / f"{name}.log")
    try:
        yield Replica(process, port_of(holder))
    finally:
        process.kill()
        holder.close()
