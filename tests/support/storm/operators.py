"""Operators that are disturbed: processes that are started again whenever they end."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster_processes import ClusterProcess

_PROGRAM = Path(__file__).parents[1] / "storm_operator.py"
_AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class Place:
    """Where an operator works."""

    kubeconfig: Path
    namespace: str
    progress_port: int
    log: Path


class Replica:
    """`with Replica(...) as replica:` works from the start of the block to its end, as long as it
    is tended; it belongs to one thread."""

    def __init__(self, place: Place, name: str, *, has_lease: bool) -> None:
        self.name = name
        self.lives = 0
        """Times that it was started."""
        self._place, self._has_lease = place, has_lease
        self._ended_at = 0.0

    def tend(self) -> None:
        """Start it again some time after it has ended."""
        try:
            self._process.check()
            self._ended_at = 0.0
        except RuntimeError:
            now = time.monotonic()
            self._ended_at = self._ended_at or now
            if now - self._ended_at > _AGAIN_SECONDS:
                self._start()

    def pause(self) -> bool:
        """It stands still, and does not know; false: it has just ended by itself."""
        try:
            self._process.pause()
        except (ChildProcessError, ProcessLookupError):
            return False
        return True

    def resume(self) -> None:
        """It goes on where it was."""
        self._process.resume()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()

    def _start(self) -> None:
        self.lives += 1
        place = self._place
        self._process = ClusterProcess(
            [
                *(sys.executable, str(_PROGRAM), f"--kubeconfig={place.kubeconfig}"),
                *(f"--namespace={place.namespace}", f"--progress-port={place.progress_port}"),
                # Of one life only, as the name of a pod.
                f"--identity={self.name}-{self.lives}",
                *(["--lease"] if self._has_lease else []),
            ],
            place.log,
        )
