"""Pictures: what is accepted, checked without torch before a run, and read as the model sees it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from prism_api.errors import DataError
from prism_trainer.data.images import ImageRef

MAX_ASPECT_RATIO = 200
"""Longer side over shorter one; what Qwen-VL's image processors take at most (`smart_resize`)."""

_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a damaged picture."""
_MANY_PICTURES = ("GIF", "PNG", "TIFF", "WEBP")
"""Kinds whose further frames would be lost. In a camera's MPO they are previews."""


def load_image(image: ImageRef, origin: str) -> Image.Image:
    """Decode an image fully, as RGB; transparency is dropped, 16 bits become 8.

    Raises DataError naming the row if it is damaged, no image, or refused by `check_image`.
    """
    with _opened(image, origin) as picture:
        if picture.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
            return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
        return picture.convert("RGB")


def check_image(image: ImageRef, origin: str) -> None:
    """Read an image once, as cheaply as finds damage; raises DataError as `load_image` does."""
    with _opened(image, origin) as picture:
        if picture.format == "PNG":
            picture.verify()  # its checksums tell what decoding would
            return
        if picture.format == "JPEG":
            picture.draft(None, (max(1, picture.width // 8), max(1, picture.height // 8)))
        picture.load()


@contextmanager
def _opened(image: ImageRef, origin: str) -> Iterator[Image.Image]:
    name = image.path or "an embedded image"
    try:
        with Image.open(io.BytesIO(content_of(image))) as picture:
            problem = _refusal(picture)
            if problem is None:
                yield picture
    except _BROKEN as error:
        # Pillow itself would say which buffer in memory it was.
        why = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{origin}: {name} cannot be decoded ({why}); replace it") from None
    if problem is not None:
        raise DataError(f"{origin}: {name} {problem}")


def content_of(image: ImageRef) -> bytes:
    """The encoded picture; raises OSError if its file cannot be read."""
    if image.content is not None:
        return image.content
    assert image.path is not None, "an image has bytes or a path"
    return image.path.read_bytes()


def _refusal(picture: Image.Image) -> str | None:
    """What speaks against a picture that can be decoded."""
    width, height = picture.size
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        return (
            f"is {width} x {height} px, and the model takes sides of at most "
            f"{MAX_ASPECT_RATIO} to 1; cut it"
        )
    if picture.format in _MANY_PICTURES and getattr(picture, "n_frames", 1) > 1:
        return f"has {picture.n_frames} frames; give one picture"  # type: ignore[attr-defined]
    if picture.mode in ("I", "F"):
        return "has 32 bits per colour, whose white is not known; convert it to 8 bits"
    return None
