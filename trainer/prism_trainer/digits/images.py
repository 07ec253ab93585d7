"""Scikit-learn's handwritten digits, split by instance, and pictures of several side by side."""

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

Split = Literal["train", "validation", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)

HELDOUT_PER_CLASS = 36
VALIDATION_PER_CLASS = 20
MAX_INK = 16
"""Darkest value in scikit-learn's digits."""
DIGIT_PX = 32
"""Side of one digit in a picture: one visual token of a model with patch 16 and merge 2."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class DigitSet:
    """Digit instances: `pixels` [instance, 8, 8] with ink from 0 to 16, `labels` [instance]."""

    pixels: Pixels
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, indices: NDArray[np.int64]) -> "DigitSet":
        """The instances at `indices`, in that order."""
        return DigitSet(self.pixels[indices], self.labels[indices])


@cache
def load_all() -> DigitSet:
    """All 1,797 instances in scikit-learn's order."""
    bunch = load_digits()
    return DigitSet(bunch.images.astype(np.uint8), bunch.target.astype(np.int64))


@cache
def load_split(split: Split) -> DigitSet:
    """The instances of one split, the same for every seed and stratified by class."""
    digits = load_all()
    parts = [_split_class(digits, label)[split] for label in range(10)]
    return digits.pick(np.concatenate(parts))


def _split_class(digits: DigitSet, label: int) -> dict[Split, NDArray[np.int64]]:
    # Ordered by a hash of the pixels: random enough, and fixed by the data alone, so that neither
    # a seed nor a release of numpy or scikit-learn can carry a held-out digit into training.
    members = [int(i) for i in np.flatnonzero(digits.labels == label)]
    members.sort(key=lambda i: hashlib.sha256(digits.pixels[i].tobytes()).digest())
    ordered = np.array(members, dtype=np.int64)
    borders = [HELDOUT_PER_CLASS, HELDOUT_PER_CLASS + VALIDATION_PER_CLASS]
    heldout, validation, train = np.split(ordered, borders)
    return {"train": train, "validation": validation, "heldout": heldout}


def compose_png(pixels: Pixels) -> bytes:
    """A PNG of the digits [digit, 8, 8] side by side, dark on white, 32x32 px each."""
    row = np.concatenate(list(pixels), axis=1)
    # Repeating pixels keeps all that the scan holds and makes a 16 px patch a quarter of one
    # digit. Bicubic enlargement, which mixes neighbouring patches, made no clear difference.
    enlarged = row.repeat(DIGIT_PX // 8, axis=0).repeat(DIGIT_PX // 8, axis=1)
    grey = 255 - np.round(enlarged * (255 / MAX_INK)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()
