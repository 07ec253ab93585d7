"""Files of models that are on this machine, for what has to be known before anything is loaded."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from prism_api.uris import local_path, scheme


def model_file(uri: str, name: str) -> Path | None:
    """A file of a model, if it is here: in its folder, or in the hub's cache."""
    if scheme(uri) == "hf":
        cached = try_to_load_from_cache(uri.removeprefix("hf://"), name)
        return Path(cached) if isinstance(cached, str) else None
    path = local_path(uri) / name if scheme(uri) == "file" else None
    return path if path is not None and path.is_file() else None


def model_config(uri: str) -> dict[str, Any]:
    """A model's `config.json`; empty if it is not here or cannot be read."""
    path = model_file(uri, "config.json")
    try:
        config = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
