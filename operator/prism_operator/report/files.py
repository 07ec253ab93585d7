"""Writing a file so that a reader finds the old one or the new one, never half of either."""

import os
from contextlib import suppress
from pathlib import Path

from prism_api.errors import StoreError


def replace_file(path: Path, content: bytes) -> None:
    """Put content at path in one step; StoreError names the path if the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        remedy = "make room or give a folder that can be written, then run again"
        raise StoreError(f"{path}: cannot be written ({error.strerror}); {remedy}") from error
