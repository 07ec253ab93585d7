"""Stores with checkpoints in them, as small as they can be."""

from collections.abc import Mapping
from pathlib import Path

from prism_api.checkpoint import CheckpointManifest, CheckpointRef
from prism_api.uris import file_uri
from prism_store.checkpoints import write_checkpoint
from prism_store.store import Store, open_store
from run_builders import UID

FILES: Mapping[str, bytes] = {
    "export/config.json": b"{}",
    "export/model.safetensors": bytes(range(256)) * 16,
    "state.json": b'{"position": {"iteration": 4}}',
}


def a_store(folder: Path) -> Store:
    """A store in a new folder."""
    return open_store(file_uri(folder / "store"))


def a_manifest(step: int = 4, attempt: int = 1) -> CheckpointManifest:
    """The manifest of a checkpoint, before its objects are known."""
    return CheckpointManifest(
        run_uid=UID,
        stage="sft",
        attempt=attempt,
        step=step,
        weight_version=step,
        config_hash="d" * 64,
        parent=None,
        objects=(),
    )


def a_checkpoint(
    store: Store, scratch: Path, step: int = 4, attempt: int = 1, files: Mapping[str, bytes] = FILES
) -> CheckpointRef:
    """Write a complete checkpoint into the store."""
    for name, content in files.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).write_bytes(content)
    key = f"a{attempt}/step-{step}"
    return write_checkpoint(store, key, scratch, a_manifest(step, attempt))
