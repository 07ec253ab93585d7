"""The split of the digits and the pictures composed of them."""

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prism_trainer.digits.images import SPLITS, Split, compose_png, load_all, load_split


def instances_of(split: Split) -> set[bytes]:
    return {scan.tobytes() for scan in load_split(split).pixels}


@pytest.mark.parametrize(
    ("split", "size", "per_class"),
    [("train", 1237, None), ("validation", 200, 20), ("heldout", 360, 36)],
)
def test_splits_have_their_size_and_every_class_its_share(
    split: Split, size: int, per_class: int | None
) -> None:
    digits = load_split(split)
    counts = np.bincount(digits.labels, minlength=10)
    assert len(digits) == size
    assert per_class is None or set(counts) == {per_class}
    assert counts.min() >= size // 11


def test_no_scan_is_in_two_splits_and_none_is_lost() -> None:
    parts = [instances_of(split) for split in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(load_all()) == 1797


def test_the_split_is_the_one_that_all_reported_figures_rest_on() -> None:
    # A changed split would let digits that older checkpoints were trained on into the evaluation.
    digest = hashlib.sha256(load_split("heldout").pixels.tobytes()).hexdigest()
    assert digest.startswith("9f756d1552cfa841")


def test_labels_stay_with_their_scans() -> None:
    everything = load_all()
    label_of = dict(
        zip((scan.tobytes() for scan in everything.pixels), everything.labels, strict=True)
    )
    for split in SPLITS:
        digits = load_split(split)
        assert [label_of[scan.tobytes()] for scan in digits.pixels] == list(digits.labels)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_a_picture_is_one_row_of_32_px_squares(count: int) -> None:
    picture = Image.open(io.BytesIO(compose_png(load_all().pixels[:count])))
    assert (picture.size, picture.mode) == ((32 * count, 32), "RGB")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 1796), min_size=1, max_size=4))
def test_a_picture_keeps_every_pixel_of_its_scans(indices: list[int]) -> None:
    scans = load_all().pixels[indices]
    grey = np.array(Image.open(io.BytesIO(compose_png(scans))).convert("L")).astype(float)
    ink = np.round((255 - grey) * 16 / 255)
    assert np.array_equal(ink, np.kron(np.concatenate(list(scans), axis=1), np.ones((4, 4))))


def test_background_is_white_and_full_ink_is_black() -> None:
    scan = np.zeros((1, 8, 8), dtype=np.uint8)
    scan[0, 0, 0] = 16
    picture = np.array(Image.open(io.BytesIO(compose_png(scan))))
    assert (picture[:4, :4] == 0).all()
    assert (picture[4:] == 255).all()
