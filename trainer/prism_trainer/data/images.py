"""Images of a raw row: embedded as bytes or as a data URI, or the path of a file."""

import binascii
import re
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import Any

from prism_api.errors import DataError
from prism_trainer.data.columns import list_of
from prism_trainer.data.table import RawRow

_DATA_URI = re.compile("data:image/[a-z0-9.+-]+;base64,")
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class ImageRef:
    """An image as encoded bytes (PNG, JPEG, ...), or as the path of a file that holds them."""

    content: bytes | None
    path: Path | None


def images_of(raw: RawRow, folder: Path, origin: str) -> tuple[ImageRef, ...]:
    """The row's images, from `images` or else the single one of `image`.

    Paths are relative to `folder`. Raises DataError for an image that is neither bytes nor a data
    URI nor an existing file.
    """
    images = list_of(raw, "images", origin)
    if raw.get("images") is None and raw.get("image") is not None:
        images = [raw["image"]]
    return tuple(_image(image, folder, origin) for image in images)


def _image(image: Any, folder: Path, origin: str) -> ImageRef:
    fields = image if isinstance(image, dict) else {"path": image}
    content, name = fields.get("bytes"), fields.get("path")
    if isinstance(content, bytes) and content:
        return ImageRef(content, None)
    if content or not isinstance(name, str) or not name:
        raise DataError(
            f"{origin}: an image is {str(image)[:80]!r}, neither bytes nor a path; give one of them"
        )
    if name.startswith("data:"):
        return ImageRef(_embedded(name, origin), None)
    return ImageRef(None, _file(name, folder, origin))


def _embedded(uri: str, origin: str) -> bytes:
    prefix = _DATA_URI.match(uri)
    if prefix is None:
        raise DataError(
            f"{origin}: an image's data URI begins {uri[:40]!r}; "
            "it has to begin data:image/png;base64, (or another type of image)"
        )
    try:
        content = binascii.a2b_base64(uri[prefix.end() :], strict_mode=True)
    except ValueError as error:
        problem = f"{origin}: an image's data URI is not base64 ({error})"
        raise DataError(f"{problem}; encode the image again") from None
    if not content:
        raise DataError(f"{origin}: an image's data URI is empty; embed the image")
    return content


def _file(name: str, folder: Path, origin: str) -> Path:
    """The file of that name; one that does not exist is explained by what its name looks like."""
    path = folder / name
    if isfile(path):
        return path
    if _SCHEME.match(name):
        remedy = "URIs are not fetched; give the path of a file, or embed the image"
        raise DataError(f"{origin}: image {name[:80]!r} is a URI; {remedy}")
    remedy = "copy it there or mend the path"
    if name.startswith("~"):
        remedy = "~ is not expanded; write the whole path"
    if len(name) > 255:
        remedy = "if it is base64, put data:image/png;base64, before it"
    raise DataError(f"{origin}: image file {str(path)[:200]} does not exist; {remedy}")
