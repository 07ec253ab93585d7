"""The operator as a process, by its own command line, that a test starts and kills."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cluster_processes import ClusterProcess
from prism_operator.local.servers import port_of, reserved_port
from running_operator import IMAGES, PACE


class OperatorProcess:
    """`python -m prism_operator` in one namespace, with a Lease there; it ends with the thread that
    starts it.

    A restart finds its own name in the Lease, like a container that is restarted in its pod.
    """

    def __init__(self, kubeconfig: Path, namespace: str, log: Path) -> None:
        self._log = log
        self._port = reserved_port()
        settings = {
            "namespaces": namespace,
            "pod-name": "operator",
            "pod-namespace": namespace,
            "http-port": port_of(self._port),
            "trainer-image": IMAGES.trainer,
            "rollout-image": IMAGES.rollout,
            "poll-seconds": PACE.poll_seconds,
        }
        self._command: Sequence[str] = (
            *("env", f"KUBECONFIG={kubeconfig}", sys.executable, "-m", "prism_operator"),
            *(f"--{name}={value}" for name, value in settings.items()),
        )
        self._process: ClusterProcess | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it was started and not killed; RuntimeError if it ended by itself."""
        if self._process is not None:
            self._process.check()
        return self._process is not None

    def start(self) -> None:
        """Start it; it works in a second or two."""
        self._process = ClusterProcess(self._command, self._log)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def close(self) -> None:
        """Kill it and let go of its port."""
        self.kill()
        self._port.close()
