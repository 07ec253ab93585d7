"""Tokenises prompts and responses as the model's own processor does."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prism_api.errors import DataError
from prism_trainer.data.pictures import load_image
from prism_trainer.data.rows import Row
from prism_trainer.engine.packing import Prompt, Tokens
from prism_trainer.engine.rope import Grid, mrope_positions

_CACHED_PROMPTS = 8192
"""Bounds memory; a full-size prompt with its pixels can take megabytes, see _MAX_CACHED_BYTES."""
_MAX_CACHED_BYTES = 256 << 20


class Encoder:
    """Prompts and responses as tokens, through the checkpoint's processor and chat template."""

    def __init__(self, processor: Any, image_token_id: int) -> None:
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._image_token_id = image_token_id
        self._merge_size = int(processor.image_processor.merge_size)
        self._template = processor.chat_template or processor.tokenizer.chat_template
        self._cache: OrderedDict[str, Prompt] = OrderedDict()
        self._cached_bytes = 0
        self.eos_id = int(self._tokenizer.eos_token_id)

    def prompts(self, rows: Sequence[Row]) -> list[Prompt]:
        """The rows' turns with the generation header; raises DataError for a broken image.

        Rows that are not in the cache go through the image processor together, which is several
        times as fast as one by one.
        """
        found = {row.origin: self._cache[row.origin] for row in rows if row.origin in self._cache}
        missing = {row.origin: row for row in rows if row.origin not in found}
        for origin, prompt in zip(missing, self._encode(list(missing.values())), strict=True):
            found[origin] = prompt
            self._remember(origin, prompt)
        return [found[row.origin] for row in rows]

    def response(self, text: str) -> Tokens:
        """Tokens of a response and its end-of-turn token."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.array([*ids, self.eos_id], dtype=np.int64)

    def text(self, tokens: Tokens) -> str:
        """Text of generated tokens, special tokens left out."""
        text: str = self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        return text

    def _encode(self, rows: Sequence[Row]) -> Iterator[Prompt]:
        for row, (pixels, grids) in zip(rows, self._pixels(rows), strict=True):
            text = self._processor.apply_chat_template(
                [_with_parts(turn) for turn in row.messages],
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
            )
            self._check_marks(text, len(grids), row.origin)
            expanded = self._expand(text, grids)
            ids = self._tokenizer(expanded, add_special_tokens=False)["input_ids"]
            tokens = np.array(ids, dtype=np.int64)
            positions = mrope_positions(tokens, grids, self._image_token_id, self._merge_size)
            yield Prompt(tokens, positions, tokens == self._image_token_id, pixels, grids)

    def _check_marks(self, text: str, num_images: int, origin: str) -> None:
        image, video = self._processor.image_token, self._processor.video_token
        if text.count(image) != num_images:
            raise DataError(f"{origin}: the prompt's text holds {image}; write <image> instead")
        if video in text:
            raise DataError(f"{origin}: the prompt's text holds {video}; videos are not supported")

    def _pixels(self, rows: Sequence[Row]) -> list[tuple[Tensor | None, tuple[Grid, ...]]]:
        """Pixels and grids of each row's images."""
        images = [load_image(image, row.origin) for row in rows for image in row.images]
        if not images:
            return [(None, ()) for _ in rows]
        try:
            batch = self._processor.image_processor(images=images, return_tensors="pt")
        except ValueError as error:
            for row in rows if len(rows) > 1 else []:
                self._pixels([row])  # raises for the row that is at fault
            what = f"its images do not suit the model ({error})"
            raise DataError(f"{rows[0].origin}: {what}") from None
        grids = [(int(t), int(h), int(w)) for t, h, w in batch["image_grid_thw"].tolist()]
        patches = iter(batch["pixel_values"].split([t * h * w for t, h, w in grids]))
        remaining = iter(grids)
        result: list[tuple[Tensor | None, tuple[Grid, ...]]] = []
        for row in rows:
            own = tuple(islice(remaining, len(row.images)))
            pixels = [next(patches) for _ in own]
            result.append((torch.cat(pixels) if pixels else None, own))
        return result

    def _expand(self, text: str, grids: tuple[Grid, ...]) -> str:
        pad = self._processor.image_token
        head, *rest = text.split(pad)
        parts = [head]
        for (t, h, w), tail in zip(grids, rest, strict=True):
            parts += [pad * (t * h * w // self._merge_size**2), tail]
        return "".join(parts)

    def _remember(self, key: str, prompt: Prompt) -> None:
        self._cache[key] = prompt
        self._cached_bytes += _size(prompt)
        while len(self._cache) > _CACHED_PROMPTS or self._cached_bytes > _MAX_CACHED_BYTES:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= _size(dropped)


def _size(prompt: Prompt) -> int:
    pixels = 0 if prompt.pixel_values is None else prompt.pixel_values.nbytes
    return pixels + prompt.token_ids.nbytes + prompt.positions.nbytes


def _with_parts(turn: dict[str, str]) -> dict[str, Any]:
    """`<image>` marks become the content parts that chat templates expect."""
    pieces = turn["content"].split("<image>")
    parts: list[dict[str, str]] = []
    for i, piece in enumerate(pieces):
        if i:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return {"role": turn["role"], "content": parts}
