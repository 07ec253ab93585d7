"""The finished folder: model, data sets and `about.json`, in place as a whole or not at all."""

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
from safetensors import SafetensorError

from prism_api.errors import FolderTaken, StoreError
from prism_trainer.digits.faults import measure_faults
from prism_trainer.digits.images import SPLITS, load_split
from prism_trainer.digits.processor import build_processor
from prism_trainer.digits.tables import TABLES, TableSpec, build_table, draw_rows
from prism_trainer.digits.tiny_model import build_model
from prism_trainer.digits.tokenizer import build_tokenizer

ABOUT_FILE = "about.json"
MODEL_FOLDER = "model"

About = dict[str, Any]


def ensure_folder(out: Path, seed: int) -> bool:
    """Make `out`, or check that it is complete and of this seed; returns whether it was made.

    Raises FolderTaken if it holds anything else, StoreError if it cannot be written.
    """
    out = out.absolute()
    try:
        if _is_occupied(out):
            _check_complete(out, seed)
            return False
        return _make(out, seed)
    except (OSError, SafetensorError) as error:
        remedy = "free space, or choose another folder with --out"
        raise StoreError(f"{out}: could not be made ({error}); {remedy}") from error


def _make(out: Path, seed: int) -> bool:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        # One level down, because the scratch folder itself is closed to other users.
        draft = Path(scratch) / out.name
        draft.mkdir()
        write_folder(draft, seed)
        try:
            draft.rename(out)
        except OSError:
            # Another process was first with the same folder: then its work is as good as this.
            if not _is_occupied(out):
                raise
            _check_complete(out, seed)
            return False
    return True


def write_folder(folder: Path, seed: int) -> None:
    """Write everything into an empty folder, `about.json` last."""
    about: About = {
        "seed": seed,
        "digits": {split: len(load_split(split)) for split in SPLITS},
        "model": _write_model(folder / MODEL_FOLDER, seed),
        "tables": {spec.name: _write_table(folder, spec, seed) for spec in TABLES},
    }
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    about["sha256"] = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n")


def _write_model(folder: Path, seed: int) -> About:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    model.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}


def _write_table(folder: Path, spec: TableSpec, seed: int) -> About:
    drawn = list(draw_rows(spec, seed))
    pq.write_table(build_table([row for _, row in drawn]), folder / f"{spec.name}.parquet")
    about: About = {"rows": len(drawn), "digits_from": spec.split}
    if "messages" in drawn[0][1]:
        shown = [(scene, row["messages"][-1]["content"]) for scene, row in drawn]
        about["faults"] = dataclasses.asdict(measure_faults(shown))
    return about


def _is_occupied(out: Path) -> bool:
    return out.exists() and not (out.is_dir() and not any(out.iterdir()))


def _check_complete(out: Path, seed: int) -> None:
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


def _read_about(out: Path) -> About | None:
    try:
        about = json.loads((out / ABOUT_FILE).read_text())
    except (OSError, ValueError):
        return None
    complete = isinstance(about, dict) and {"seed", "sha256"} <= about.keys()
    return about if complete else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
