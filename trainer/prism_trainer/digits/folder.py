"""The finished folder: in place as a whole or not at all, and recognised when it is there already.

Knows only files and `about.json`; what is written is up to the caller.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from prism_api.errors import FolderTaken, StoreError

ABOUT_FILE = "about.json"

About = dict[str, Any]
Writer = Callable[[Path, int], About]
"""Fills an empty folder from a seed; returns what `about.json` is to say of it."""


def ensure_folder(out: Path, seed: int, write: Writer) -> bool:
    """Make `out`, or check that it is complete and of this seed; returns whether it was made.

    Raises FolderTaken if it holds anything else, StoreError if it cannot be written.
    """
    out = out.absolute()
    try:
        return not _is_there(out, seed) and _make(out, seed, write)
    # The second is how safetensors reports a full disk.
    except (OSError, SafetensorError) as error:
        remedy = "free space, or choose another folder with --out"
        raise StoreError(f"{out}: could not be made ({error}); {remedy}") from error


def _make(out: Path, seed: int, write: Writer) -> bool:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        # One level down, because the scratch folder itself is closed to other users.
        draft = Path(scratch) / out.name
        draft.mkdir()
        _seal(draft, {"seed": seed, **write(draft, seed)})
        try:
            draft.rename(out)
        except OSError:
            # Another process was first with the same folder: then its work is as good as this.
            if _is_there(out, seed):
                return False
            raise
    return True


def _seal(folder: Path, about: About) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    text = json.dumps({**about, "sha256": digests}, indent=2) + "\n"
    (folder / ABOUT_FILE).write_text(text)


def _is_there(out: Path, seed: int) -> bool:
    """Whether `out` is complete and of this seed; raises FolderTaken if it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    remedy = "choose another folder with --out, or remove this one"
    about = _read_about(out)
    if about is None:
        raise FolderTaken(f"{out}: holds something else; {remedy}")
    if about["seed"] != seed:
        raise FolderTaken(f"{out}: was made with seed {about['seed']}, not {seed}; {remedy}")
    for name, digest in about["sha256"].items():
        path = out / name
        if not path.is_file() or _sha256(path) != digest:
            raise FolderTaken(f"{path}: is missing or was changed; {remedy}")
    return True


def _read_about(out: Path) -> About | None:
    try:
        about = json.loads((out / ABOUT_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    is_ours = isinstance(about, dict) and {"seed", "sha256"} <= about.keys()
    return about if is_ours else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
