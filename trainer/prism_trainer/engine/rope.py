"""Per-sample M-RoPE positions, computed before packing (Qwen3-VL: time, height, width)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Grid = tuple[int, int, int]
"""Patches of one image: time, height, width."""


def mrope_positions(
    token_ids: NDArray[np.int64], grids: Sequence[Grid], image_token_id: int, merge_size: int
) -> NDArray[np.int64]:
    """Positions [3, tokens] of one sample.

    Text advances all three axes together; an image's tokens share one time and spread over height
    and width, and the text after it continues past the larger of the two. Raises ValueError if the
    image tokens do not match the grids.
    """
    positions = np.empty((3, len(token_ids)), dtype=np.int64)
    is_image = token_ids == image_token_id
    cursor = index = 0
    for grid in grids:
        start = index + int(np.argmax(is_image[index:])) if is_image[index:].any() else -1
        t, h, w = grid[0], grid[1] // merge_size, grid[2] // merge_size
        if start < 0 or not is_image[start : start + t * h * w].all():
            raise ValueError(f"image tokens do not match the image grid {grid}")
        positions[:, index:start] = cursor + np.arange(start - index)
        cursor += start - index
        positions[:, start : start + t * h * w] = cursor + _grid_positions(t, h, w)
        cursor += max(h, w)
        index = start + t * h * w
    if is_image[index:].any():
        raise ValueError(f"more image tokens than {len(grids)} images account for")
    positions[:, index:] = cursor + np.arange(len(token_ids) - index)
    return positions


def _grid_positions(t: int, h: int, w: int) -> NDArray[np.int64]:
    return np.stack(np.meshgrid(np.arange(t), np.arange(h), np.arange(w), indexing="ij")).reshape(
        3, -1
    )
