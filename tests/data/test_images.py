"""Pictures: a damaged one, or what is none, is named with its row before it reaches the model."""

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from prism_api.errors import DataError
from prism_trainer.data.encoder import Encoder
from prism_trainer.data.images import ImageRef
from prism_trainer.data.pictures import load_image
from prism_trainer.data.rows import Row
from row_builders import a_png

ORIGIN = "/data/a.parquet row 3"


def refused(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        load_image(ImageRef(content, None), ORIGIN)
    assert caught.value.exit_code == 65
    return str(caught.value)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_picture_is_named(kind: str, keep: float) -> None:
    content = encoded(Image.open(io.BytesIO(a_png(64, 64))), kind)

    message = refused(content[: int(keep * len(content))])

    assert message.startswith(f"{ORIGIN}: an embedded image cannot be decoded (")
    assert message.endswith("; replace it")


@pytest.mark.parametrize(
    "content",
    [b"\0", b"<html>404 not found</html>", b"\x89PNG\r\n\x1a\n", bytes(1000), b"%PDF-1.7 ..."],
)
def test_what_is_no_picture_is_named(content: bytes) -> None:
    assert "an embedded image cannot be decoded" in refused(content)


def test_no_damage_to_a_picture_is_anything_but_a_data_error() -> None:
    dice, content, messages = random.Random(0), a_png(40, 40), []
    for _ in range(300):
        flipped = bytearray(content)
        for _ in range(dice.choice([1, 4])):
            flipped[dice.randrange(len(content))] = dice.randrange(256)
        try:
            load_image(ImageRef(bytes(flipped), None), ORIGIN)
        except DataError as error:
            messages.append(str(error))

    assert len(messages) > 100
    assert all(message.startswith(ORIGIN) for message in messages)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "7.png"
    path.write_bytes(a_png()[:50])

    with pytest.raises(DataError) as caught:
        load_image(ImageRef(None, path), ORIGIN)

    assert str(caught.value).startswith(f"{ORIGIN}: {path} cannot be decoded")


def test_a_file_that_has_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png cannot be decoded"):
        load_image(ImageRef(None, tmp_path / "gone.png"), ORIGIN)


@pytest.fixture(scope="module")
def encoder(digits_folder: Path) -> Encoder:
    """The quickstart's own."""
    return fresh_encoder(digits_folder)


def fresh_encoder(digits_folder: Path) -> Encoder:
    """One with an empty cache."""
    processor: Any = AutoProcessor.from_pretrained(digits_folder / "model")
    return Encoder(processor, processor.tokenizer.convert_tokens_to_ids(processor.image_token))


def a_row(text: str, *images: bytes) -> Row:
    refs = tuple(ImageRef(content, None) for content in images)
    return Row(f"{ORIGIN} {random.random()}", "x", ({"role": "user", "content": text},), refs)


def test_each_image_takes_the_place_of_its_mark(encoder: Encoder) -> None:
    row = a_row("<image>What is left of<image>?", a_png(32, 32), a_png(64, 32))
    (prompt,) = encoder.prompts([row])

    assert prompt.grids == ((1, 2, 2), (1, 2, 4))
    assert int(prompt.is_image.sum()) == 1 + 2


def test_a_picture_that_the_model_cannot_take_is_named(encoder: Encoder) -> None:
    with pytest.raises(DataError, match=r"row 3.* is 600 x 1 px, and the model takes"):
        encoder.prompts([a_row("<image>", a_png()), a_row("<image>", a_png(600, 1))])


@pytest.mark.parametrize("images", [[], [a_png()]])
def test_a_prompt_that_writes_the_models_own_mark_is_named(
    encoder: Encoder, images: list[bytes]
) -> None:
    text = "<image>" * len(images) + "What does <|image_pad|> mean?"

    with pytest.raises(DataError, match=r"holds <\|image_pad\|>; write <image> instead"):
        encoder.prompts([a_row(text, *images)])


def test_a_prompt_that_writes_the_mark_of_a_video_is_named(encoder: Encoder) -> None:
    with pytest.raises(DataError, match=r"holds <\|video_pad\|>; videos are not supported"):
        encoder.prompts([a_row("What moves in <|vision_start|><|video_pad|><|vision_end|>?")])


def test_prompts_are_the_same_one_by_one_and_together(
    encoder: Encoder, digits_folder: Path
) -> None:
    rows = [
        a_row("<image>One?", a_png(32, 32)),
        a_row("No picture."),
        a_row("<image>Two<image>", a_png(64, 32), a_png(32, 64)),
    ]

    together = encoder.prompts([*rows, rows[0]])
    alone = [fresh_encoder(digits_folder).prompts([row])[0] for row in (*rows, rows[0])]

    for a, b in zip(together, alone, strict=True):
        assert a.grids == b.grids
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert (a.pixel_values is None) == (b.pixel_values is None)
        if a.pixel_values is not None and b.pixel_values is not None:
            assert torch.equal(a.pixel_values, b.pixel_values)
