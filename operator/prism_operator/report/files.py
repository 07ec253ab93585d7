"""Writing a file so that a reader, also one after a power cut, finds the old one or the new one."""

from pathlib import Path

from prism_api.errors import StoreError
from prism_store.durable import make_folder, replacing


def replace_file(path: Path, content: bytes) -> None:
    """Put content at path in one step, and on the disk; StoreError names the path if it refuses."""
    try:
        make_folder(path.parent)
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        remedy = "make room or give a folder that can be written, then run again"
        raise StoreError(f"{path}: cannot be written ({error.strerror}); {remedy}") from error
