"""The output folder of a local run: whose it is, who works in it, where things lie."""

import fcntl
import hashlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from prism_api.errors import FolderTaken
from prism_api.names import StageKind
from prism_api.run import PrismRun
from prism_operator.documents import to_yaml

IDENTITY_FILE = "run.json"
_LIVE_FIELDS = ("suspend", "failurePolicy", "images", "queue", "ttlSecondsAfterFinished")
"""May change between two invocations of the same run (design, section 2)."""


@dataclass(frozen=True)
class Identity:
    """Which run a folder belongs to."""

    name: str
    uid: str
    spec_hash: str


@dataclass(frozen=True)
class Usage:
    """Resources over all invocations so far."""

    wall_seconds: float = 0.0
    peak_rss_bytes: int = 0


class RunFolder:
    """Paths and persistent facts of one run's folder."""

    def __init__(self, path: Path, identity: Identity, lock: IO[str]) -> None:
        self.path, self.identity, self._lock = path, identity, lock

    @property
    def inputs(self) -> Path:
        """Data and model made on the spot."""
        return self.path / "inputs"

    @property
    def store(self) -> Path:
        """Checkpoints and results."""
        return self.path / "store"

    def attempts(self, kind: StageKind) -> list[int]:
        """Numbers of the attempts that were ever started, ascending."""
        folder = self.path / "work" / kind
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(name[1:]) for name in names if name[1:].isdigit())

    def work(self, kind: StageKind, attempt: int) -> Path:
        """Config, log, progress and outcome of an attempt."""
        return self.path / "work" / kind / f"a{attempt}"

    def usage(self) -> Usage:
        """What earlier invocations used."""
        path = self.path / "usage.json"
        return Usage(**json.loads(path.read_text())) if path.is_file() else Usage()

    def save_usage(self, usage: Usage) -> None:
        """Remember the sum."""
        _replace(self.path / "usage.json", json.dumps(asdict(usage)))

    def close(self) -> None:
        """Let another invocation in."""
        self._lock.close()


def open_folder(path: Path, run: PrismRun) -> RunFolder:
    """Open or make a run's folder and keep every other invocation out of it.

    Raises FolderTaken, having touched nothing, if the folder holds another run, the same run with
    other settings, something else entirely, or a run that is being worked on right now.
    """
    identity_path = path / IDENTITY_FILE
    if path.exists() and not path.is_dir():
        raise FolderTaken(f"{path}: is a file; give a folder with --out")
    if not identity_path.is_file() and path.is_dir() and any(path.iterdir()):
        raise FolderTaken(f"{path}: is not empty and holds no run; give another folder with --out")
    path.mkdir(parents=True, exist_ok=True)
    lock = _lock(path)
    if identity_path.is_file():
        identity = Identity(**json.loads(identity_path.read_text()))
        _check_identity(path, identity, run)
    else:
        identity = Identity(run.metadata.name, str(uuid.uuid4()), spec_hash(run))
        _replace(path / "prismrun.yaml", run_yaml(run))
        _replace(identity_path, json.dumps(asdict(identity)))
    return RunFolder(path, identity, lock)


def spec_hash(run: PrismRun) -> str:
    """Hash of what may not change during a run."""
    spec = run.model_dump(mode="json", by_alias=True)["spec"]
    for name in _LIVE_FIELDS:
        spec.pop(name)
    (spec["storage"] or {}).pop("retention", None)
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def run_yaml(run: PrismRun) -> str:
    """The run as its author could have written it."""
    document = run.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return to_yaml(document)


def _lock(path: Path) -> IO[str]:
    lock = (path / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise FolderTaken(
            f"{path}: another prism is working on this run; wait or stop it"
        ) from None
    return lock


def _check_identity(path: Path, identity: Identity, run: PrismRun) -> None:
    if identity.name != run.metadata.name:
        raise FolderTaken(
            f"{path}: holds the run {identity.name!r}, not {run.metadata.name!r}; "
            "give another folder with --out"
        )
    if identity.spec_hash != spec_hash(run):
        raise FolderTaken(
            f"{path}: holds this run with other settings (see {path / 'prismrun.yaml'}); "
            "undo the change, or give another folder with --out"
        )


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
