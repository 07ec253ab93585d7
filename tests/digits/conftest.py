"""For the tests of the quickstart's inputs: one made folder, and what pictures really show."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from prism_trainer.digits.__main__ import main

os.environ["HF_HUB_OFFLINE"] = "1"

SEED = 5

Digits = tuple[int, ...]
Instances = tuple[int, ...]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder made by the command with seed 5."""
    out = tmp_path_factory.mktemp("digits") / "made"
    assert main(["--out", str(out), "--seed", str(SEED)]) == 0
    return out


@pytest.fixture(scope="session")
def read_table(made: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Reads one table of the made folder into rows."""
    return lambda name: pq.read_table(made / f"{name}.parquet").to_pylist()


@pytest.fixture(scope="session")
def look() -> Callable[[bytes], tuple[Digits, Instances]]:
    """What a picture really shows: labels and indices of scikit-learn's scans, found by pixels."""
    bunch = load_digits()
    scans = {scan.astype(np.uint8).tobytes(): i for i, scan in enumerate(bunch.images)}

    def look_at(png: bytes) -> tuple[Digits, Instances]:
        grey = np.array(Image.open(io.BytesIO(png)).convert("L"))
        ink = np.round((255 - grey[::4, ::4].astype(float)) * 16 / 255).astype(np.uint8)
        parts = np.split(ink, ink.shape[1] // 8, axis=1)
        instances = tuple(scans[np.ascontiguousarray(part).tobytes()] for part in parts)
        return tuple(int(bunch.target[i]) for i in instances), instances

    return look_at
