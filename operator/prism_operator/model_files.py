"""Sizes of models from the files that are on this machine; the plan needs no more of them."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from prism_api.model_shape import PUBLISHED_SHAPES, ModelShape, shape_of
from prism_api.uris import local_path, scheme


def known_shapes(uris: Iterable[str], base: Path) -> dict[str, ModelShape]:
    """The shapes of those models whose config.json can be read, or that are published ones.

    `file://` paths are relative to `base`; `hf://` names are looked up in the hub's cache.
    """
    found = {uri: _shape(uri, base) for uri in uris}
    return {uri: shape for uri, shape in found.items() if shape is not None}


def _shape(uri: str, base: Path) -> ModelShape | None:
    for path in _configs(uri, base):
        try:
            return shape_of(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a plan is not the place to complain about a model's files: the trainer does
    return PUBLISHED_SHAPES.get(uri)


def _configs(uri: str, base: Path) -> list[Path]:
    if scheme(uri) == "file":
        return [base / local_path(uri) / "config.json"]
    if scheme(uri) == "hf":
        home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
        name = uri.removeprefix("hf://").replace("/", "--")
        return sorted((home / "hub").glob(f"models--{name}/snapshots/*/config.json"))
    return []
