"""The output folder of a local run: whose it is, who works in it, where things lie."""

import fcntl
import json
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from prism_api.errors import FolderTaken, PrismError, StoreError
from prism_api.names import StageKind
from prism_api.run import PrismRun
from prism_api.uris import file_uri
from prism_operator.documents import to_yaml
from prism_store.attempts import attempt_numbers
from prism_store.durable import make_folder
from prism_store.store import DirectoryStore, store_errors

IDENTITY_FILE = "run.json"
_DOCUMENT_FILE = "prismrun.yaml"
_LOCK_FILE = ".lock"
_ANOTHER = "give another folder with --out"


@dataclass(frozen=True)
class Identity:
    """Which run a folder belongs to."""

    name: str
    namespace: str
    store: str
    """URI of its results and checkpoints, which name each other by it."""
    uid: str


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
    def preflight(self) -> Path:
        """Configs of the stages as they were checked before the start."""
        return self.path / "preflight"

    @property
    def document(self) -> Path:
        """The newest document that was accepted."""
        return self.path / _DOCUMENT_FILE

    def attempts(self, kind: StageKind) -> list[int]:
        """Numbers of the attempts that were ever started, ascending."""
        folder = self.path / "work" / kind
        return attempt_numbers(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def work(self, kind: StageKind, attempt: int) -> Path:
        """Config, log, progress and outcome of an attempt."""
        return self.path / "work" / kind / f"a{attempt}"

    def usage(self) -> Usage:
        """What earlier invocations used; nothing if that cannot be read, as it is an extra."""
        try:
            return Usage(**json.loads((self.path / "usage.json").read_text()))
        except (OSError, ValueError, TypeError):
            return Usage()

    def save_usage(self, usage: Usage) -> None:
        """Remember the sum; it is an extra, for which a full disk is no reason to fail."""
        with suppress(StoreError):
            _put(self.path / "usage.json", json.dumps(asdict(usage)))

    def save_document(self, run: PrismRun) -> None:
        """Remember the document that is being worked on."""
        text = run_yaml(run)
        if not self.document.is_file() or self.document.read_text() != text:
            _put(self.document, text)

    def close(self) -> None:
        """Let another invocation in."""
        self._lock.close()


def open_folder(path: Path, run: PrismRun) -> RunFolder:
    """Open or make a run's folder and keep every other invocation out of it.

    Raises FolderTaken, having touched nothing, if the folder holds another run, something else
    entirely, or a run that is being worked on right now; StoreError if it cannot be made.
    """
    with store_errors(path):
        _check_mine(path, run)
        make_folder(path)
        lock = _lock(path)
    try:
        return RunFolder(path, _make_mine(path, run), lock)
    except PrismError:
        lock.close()
        raise


def _make_mine(path: Path, run: PrismRun) -> Identity:
    """With the lock held; checked again, as another invocation may have been quicker."""
    identity = _check_mine(path, run)
    if identity is None:
        identity = _new_identity(path, run)
        _put(path / IDENTITY_FILE, json.dumps(asdict(identity)))
    return identity


def _new_identity(path: Path, run: PrismRun) -> Identity:
    store = run.spec.storage.uri if run.spec.storage else file_uri(path / "store")
    return Identity(run.metadata.name, run.metadata.namespace, store, str(uuid.uuid4()))


def run_yaml(run: PrismRun) -> str:
    """The run as its author could have written it."""
    document = run.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return to_yaml(document)


def _lock(path: Path) -> IO[str]:
    lock = (path / _LOCK_FILE).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise FolderTaken(
            f"{path}: another prism is working on this run; wait or stop it"
        ) from None
    return lock


def _check_mine(path: Path, run: PrismRun) -> Identity | None:
    """The identity of the folder if it is the run's, none if it is new; else FolderTaken."""
    if path.exists() and not path.is_dir():
        raise FolderTaken(f"{path}: is a file; give a folder with --out")
    if not (path / IDENTITY_FILE).is_file():
        if path.is_dir() and any(not _is_left_over(p.name) for p in path.iterdir()):
            raise FolderTaken(f"{path}: is not empty and holds no run; {_ANOTHER}")
        return None
    found, asked = _read_identity(path / IDENTITY_FILE), _new_identity(path, run)
    for what in ("name", "namespace", "store"):
        has, wants = getattr(found, what), getattr(asked, what)
        if has != wants:
            raise FolderTaken(
                f"{path}: holds a run whose {what} is {has}, not {wants}; "
                f"undo the change, or {_ANOTHER}"
            )
    return found


def _is_left_over(name: str) -> bool:
    """Whether it is of an invocation that was cut off before it had said whose the folder is."""
    return name == _LOCK_FILE or name.startswith(f".{IDENTITY_FILE}.")


def _read_identity(path: Path) -> Identity:
    try:
        return Identity(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise FolderTaken(f"{path}: says nothing about a run of ours; {_ANOTHER}") from None


def _put(path: Path, text: str) -> None:
    DirectoryStore(file_uri(path.parent)).put(path.name, text.encode())
