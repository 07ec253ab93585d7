"""Brings a version of the weights from the store into a folder that vLLM can load."""

import json
import os
import shutil
import struct
import tempfile
from pathlib import Path

from prism_api.errors import StoreError
from prism_api.rollout import Weights
from prism_store.checkpoints import read_checkpoint
from prism_store.store import store_errors

_KEPT_VERSIONS = 2
"""The one in use and the one before, which a load that is just ending may still read."""

Shapes = dict[str, tuple[int, ...]]


def fetch(weights: Weights, folder: Path, model: Path) -> Path:
    """The local folder with a version's tensors, every object verified against the manifest.

    Raises StoreError naming the object that is missing or altered, or the first tensor that the
    model (a folder) has otherwise: vLLM would load what fits and only log the rest.
    """
    checkpoint = read_checkpoint(weights.checkpoint)
    target = folder / f"v{weights.version}-{weights.checkpoint.digest[:12]}"
    with store_errors(target):
        if not target.is_dir():
            _materialise(checkpoint.files, target)
        _check_shapes(tensor_shapes(target), tensor_shapes(model), weights.checkpoint.uri)
        target.touch()
        _prune(folder)
    return target


def tensor_shapes(folder: Path) -> Shapes:
    """Name and shape of every tensor in a folder's safetensors files, from their headers alone."""
    shapes: Shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        shapes |= {
            name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
        }
    return shapes


def _materialise(files: dict[str, Path], target: Path) -> None:
    """Hard links where store and target share a file system; complete or not there at all."""
    # A draft of its own: a fetch that was given up may still be writing the same version.
    with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        draft.mkdir()
        for name, source in files.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, path)
            except OSError:
                shutil.copyfile(source, path)
        draft.rename(target)


def _check_shapes(ours: Shapes, models: Shapes, uri: str) -> None:
    for name in sorted(ours.keys() | models.keys()):
        have, want = ours.get(name), models.get(name)
        if have != want:
            raise StoreError(
                f"{uri}: tensor {name} is {_shape(have)} here and {_shape(want)} in the server's "
                "model; serve the model that the stage trains"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {list(shape)}"


def _prune(folder: Path) -> None:
    versions = [path for path in folder.iterdir() if path.is_dir() and path.name.startswith("v")]
    for path in sorted(versions, key=lambda path: path.stat().st_mtime_ns)[:-_KEPT_VERSIONS]:
        shutil.rmtree(path)
