"""Measures the resident memory of this process and all its descendants."""

import threading

import psutil

_PERIOD_SECONDS = 0.5


class MemoryWatch:
    """Samples in a thread of its own and keeps the peak; shared pages count once per process."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        root = psutil.Process()
        while not self._stopped.wait(_PERIOD_SECONDS):
            self.peak_bytes = max(self.peak_bytes, _resident_bytes(root))


def _resident_bytes(root: psutil.Process) -> int:
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
