"""M-RoPE positions against transformers' own index function."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_builders import IMAGE, MERGE, VISION_END, VISION_START, WORDS, build_model
from prism_trainer.engine.rope import Grid, mrope_positions

# Built once for all examples; the index function reads its configuration only.
MODEL: Any = build_model().model

SIDE = st.integers(1, 9).map(lambda n: n * MERGE)
IMAGES = st.lists(st.tuples(st.tuples(st.just(1), SIDE, SIDE), st.integers(0, 12)), max_size=5)


def sample_of(start: int, images: list[tuple[Grid, int]]) -> tuple[Any, list[Grid]]:
    ids = [*range(start)]
    for (t, h, w), words in images:
        ids += [VISION_START, *[IMAGE] * (t * h * w // MERGE**2), VISION_END, *range(words)]
    return np.array(ids, dtype=np.int64) % (WORDS + 4), [grid for grid, _ in images]


@given(start=st.integers(0, 12), images=IMAGES)
def test_positions_equal_those_of_transformers(start: int, images: list[tuple[Grid, int]]) -> None:
    ids, grids = sample_of(start + (not images), images)
    types = torch.from_numpy((ids == IMAGE).astype(np.int32))[None]
    thw = torch.tensor(grids) if grids else None
    theirs, delta = MODEL.get_rope_index(torch.from_numpy(ids)[None], types, thw)
    ours = mrope_positions(ids, grids, IMAGE, MERGE)
    np.testing.assert_array_equal(ours, theirs[:, 0].numpy())
    # Where a response goes on, as transformers' generation does it.
    assert ours.max() + 1 == len(ids) + int(delta)


def test_positions_of_one_small_layout_are_as_drawn() -> None:
    ids = np.array([5, VISION_START, *[IMAGE] * 6, VISION_END, 7])
    assert mrope_positions(ids, [(1, 4, 6)], IMAGE, MERGE).tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]


@pytest.mark.parametrize(
    ("pads", "grids"),
    [(3, [(1, 4, 4)]), (5, [(1, 4, 4)]), (0, [(1, 2, 2)]), (2, []), (4, [(1, 4, 4), (1, 2, 2)])],
    ids=["too few", "too many", "none", "no image", "second image missing"],
)
def test_image_tokens_that_do_not_match_the_images_are_refused(
    pads: int, grids: list[Grid]
) -> None:
    ids = np.array([1, *[IMAGE] * pads, 2])
    with pytest.raises(ValueError, match="image tokens"):
        mrope_positions(ids, grids, IMAGE, MERGE)
