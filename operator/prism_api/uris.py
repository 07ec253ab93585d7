"""URIs as they stand in documents, and the local files that some of them name."""

from pathlib import Path
from urllib.parse import quote, unquote

from prism_api.errors import FieldProblem, SpecError


def scheme(uri: str) -> str:
    """The part before `://`."""
    return uri.partition("://")[0]


def file_uri(path: Path) -> str:
    """The URI of a local file; what a URI may not hold, such as a space, is percent-encoded."""
    return f"file://{quote(str(path.resolve()))}"


def local_path(uri: str) -> Path:
    """The file or folder that a `file://` URI names; raises SpecError for any other scheme."""
    if scheme(uri) != "file":
        problem = "cannot be read on this machine"
        remedy = "copy it here and give a file:// uri"
        raise SpecError([FieldProblem(uri, problem, remedy)])
    return Path(unquote(uri.partition("://")[2]))


CLAIMS_FOLDER = "/pvc"
"""Where pods have their PersistentVolumeClaims, each in a folder of its name."""


def claim(uri: str) -> str:
    """The PersistentVolumeClaim that a `pvc://` URI names."""
    return uri.partition("://")[2].partition("/")[0]


def mounted_path(uri: str) -> str:
    """The file or folder, in a pod, that a `pvc://` URI names."""
    return f"{CLAIMS_FOLDER}/{unquote(uri.partition('://')[2])}"
