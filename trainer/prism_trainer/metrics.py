"""What a stage reports while it runs: a history that travels with checkpoints, and live
progress."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from prism_store.store import store_errors

Row = dict[str, float | str]
PROGRESS_FILE = "progress.json"
"""In the work folder: the newest iteration."""


class History:
    """One row per iteration, without gaps or repeats, however often the stage was interrupted."""

    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows = rows or []

    def add(self, row: Row) -> None:
        """Append an iteration."""
        self.rows.append(row)

    def to_jsonl(self) -> str:
        """One JSON object per line."""
        return "".join(json.dumps(row) + "\n" for row in self.rows)

    @classmethod
    def from_jsonl(cls, text: str) -> "History":
        """What `to_jsonl` wrote."""
        return cls([json.loads(line) for line in text.splitlines()])


class Progress:
    """The newest iteration as a small file that a runner polls; replaced atomically."""

    def __init__(self, path: Path, stage: str, total: int, is_writer: bool) -> None:
        self._path, self._stage, self._total, self._is_writer = path, stage, total, is_writer
        self._started, self._first = time.monotonic(), -1

    def report(
        self, done: int, phase: str, step: int, steps: int, metrics: Mapping[str, float]
    ) -> None:
        """`done` of all iterations are finished; step and steps count within the phase."""
        if not self._is_writer:
            return
        if self._first < 0:
            self._started, self._first = time.monotonic(), done
        per_iteration = (time.monotonic() - self._started) / max(1, done - self._first)
        document = {
            "stage": self._stage,
            "phase": phase,
            "step": step,
            "steps": steps,
            "eta_seconds": per_iteration * (self._total - done) if done > self._first else None,
            "metrics": dict(metrics),
        }
        temporary = self._path.with_suffix(".tmp")
        with store_errors(self._path):
            temporary.write_text(json.dumps(document))
            os.replace(temporary, self._path)
