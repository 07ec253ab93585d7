"""Which pictures are taken, and how: the check before a run finds what using them would."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from prism_api.errors import DataError
from prism_trainer.data.images import ImageRef
from prism_trainer.data.pictures import check_image, load_image
from row_builders import a_png

ORIGIN = "/data/a.parquet row 3"
KINDS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def a_ref(content: bytes) -> ImageRef:
    return ImageRef(content, None)


def refusal(content: bytes) -> str:
    """What both the check and the use say."""
    said = []
    for read in (check_image, load_image):
        with pytest.raises(DataError) as caught:
            read(a_ref(content), ORIGIN)
        said.append(str(caught.value))
    assert said[0] == said[1]
    return said[0]


def a_photo(width: int, height: int) -> Image.Image:
    noise = random.Random(0).randbytes(3 * width * height)
    return Image.frombytes("RGB", (width, height), noise)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 1), (300, 170)], ids=str)
def test_a_whole_picture_passes_the_check(kind: str, size: tuple[int, int]) -> None:
    check_image(a_ref(encoded(a_photo(*size), kind)), ORIGIN)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_accepted_mode_passes_the_check_and_becomes_rgb(mode: str) -> None:
    content = encoded(Image.new(mode, (5, 7)), "JPEG" if mode == "CMYK" else "PNG")

    check_image(a_ref(content), ORIGIN)
    image = load_image(a_ref(content), ORIGIN)

    assert (image.mode, image.size) == ("RGB", (5, 7))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.98])
def test_the_check_finds_every_cut(kind: str, keep: float) -> None:
    content = encoded(a_photo(64, 64), kind)

    with pytest.raises(DataError, match=rf"{ORIGIN}: an embedded image cannot be decoded \("):
        check_image(a_ref(content[: int(keep * len(content))]), ORIGIN)


def test_no_flipped_byte_of_a_png_passes_the_check_and_fails_in_use() -> None:
    dice, content, found = random.Random(0), a_png(40, 40), 0
    for _ in range(300):
        flipped = bytearray(content)
        flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        try:
            check_image(a_ref(bytes(flipped)), ORIGIN)
        except DataError:
            found += 1
        else:
            load_image(a_ref(bytes(flipped)), ORIGIN)
    assert found > 250


@pytest.mark.parametrize("size", [(201, 1), (3, 601)], ids=str)
def test_a_picture_beyond_200_to_1_is_refused(size: tuple[int, int]) -> None:
    width, height = size

    assert refusal(encoded(a_photo(*size), "PNG")) == (
        f"{ORIGIN}: an embedded image is {width} x {height} px, and the model takes sides of at "
        "most 200 to 1; cut it"
    )


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_a_moving_picture_is_refused(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])

    assert "an embedded image has 3 frames; give one picture" in refusal(content)


def test_a_cameras_preview_is_no_second_picture() -> None:
    photo = a_photo(64, 64)
    content = encoded(photo, "MPO", save_all=True, append_images=[photo.resize((8, 8))])

    check_image(a_ref(content), ORIGIN)
    assert load_image(a_ref(content), ORIGIN).size == (64, 64)


def test_sixteen_bits_become_eight_and_are_not_clipped() -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)

    image = load_image(a_ref(encoded(Image.fromarray(values), "PNG")), ORIGIN)

    assert np.asarray(image)[0].tolist() == [[v] * 3 for v in (0, 0, 1, 128, 255)]


@pytest.mark.parametrize("dtype", [np.int32, np.float32], ids=lambda dtype: dtype.__name__)
def test_values_of_32_bits_are_refused(dtype: type) -> None:
    content = encoded(Image.fromarray(np.full((4, 4), 7, dtype=dtype)), "TIFF")

    assert "has 32 bits per colour, whose white is not known; convert it" in refusal(content)


def test_transparency_is_dropped_and_the_colours_stay() -> None:
    """As transformers and the reference's loaders do."""
    content = encoded(Image.new("RGBA", (4, 4), (200, 100, 50, 0)), "PNG")

    assert load_image(a_ref(content), ORIGIN).getpixel((1, 1)) == (200, 100, 50)


def test_a_picture_without_size_is_named() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))

    assert refusal(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).startswith(f"{ORIGIN}: an embedded")


def test_a_picture_of_a_billion_points_is_not_decoded() -> None:
    header = bytearray(encoded(Image.new("L", (8, 8)), "BMP"))
    header[18:26] = (60_000).to_bytes(4, "little") * 2

    assert "decompression bomb" in refusal(bytes(header))
