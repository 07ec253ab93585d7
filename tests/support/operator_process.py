"""The operator as a process of its own: `python operator_process.py --kubeconfig F ...`, and its
handle for tests."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from cluster_processes import ClusterProcess
from prism_operator.cluster.controller import Pace
from running_operator import RunningOperator


class OperatorProcess:
    """Started and killed by a test; it ends with the thread that starts it."""

    def __init__(self, kubeconfig: Path, namespace: str, progress_port: int, log: Path) -> None:
        self._command = [
            *(sys.executable, str(Path(__file__)), f"--kubeconfig={kubeconfig}"),
            *(f"--namespace={namespace}", f"--progress-port={progress_port}"),
        ]
        self.log = log
        self._process: ClusterProcess | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it was started and not killed; raises if it ended by itself."""
        if self._process is not None:
            self._process.check()
        return self._process is not None

    def start(self) -> None:
        """Start it; it works in a second or two."""
        self._process = ClusterProcess(self._command, self.log)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process = None


def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--progress-port", type=int, required=True)
    asked = parser.parse_args()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with RunningOperator(
        asked.kubeconfig,
        (asked.namespace,),
        progress_port=asked.progress_port,
        pace=Pace(poll_seconds=0.5),
    ):
        ended.wait()


if __name__ == "__main__":
    main()
