"""For the tests of the stages: small data, and a policy that knows the format."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from numerics import set_up
from prism_api.resources import DataSource
from stage_builders import (
    Row,
    demonstrations,
    pairs_of,
    read_rows,
    run_to_end,
    sft_stage,
    stage_config,
    teacher_parts,
    with_truth,
    write_rows,
)

set_up()
logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _torch_as_before() -> Iterator[None]:
    """A stage makes torch deterministic for its whole process, which here outlives it."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def rows(digits_folder: Path) -> list[Row]:
    """Sixteen prompts; "1" is right."""
    return [with_truth(row, "1") for row in read_rows(digits_folder, 16)]


@pytest.fixture(scope="session")
def demos(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Demonstrations of the format for SFT."""
    path = tmp_path_factory.mktemp("sft") / "demos.parquet"
    return write_rows(path, demonstrations(read_rows(digits_folder, 64, start=100)))


@pytest.fixture(scope="session")
def teachers(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Prompts with teacher texts for alignment."""
    path = tmp_path_factory.mktemp("align") / "teachers.parquet"
    return write_rows(path, [teacher_parts(row) for row in rows])


@pytest.fixture(scope="session")
def pairs(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Teacher and student texts for the discriminator's warm-up."""
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.parquet", pairs_of(rows))


@pytest.fixture(scope="session")
def prompts(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Prompts with gold answers for RLVR."""
    return write_rows(tmp_path_factory.mktemp("rlvr") / "prompts.parquet", rows)


@pytest.fixture(scope="session")
def talker(
    digits_folder: Path, demos: DataSource, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A policy that answers in the format, with 1 or 2 at random."""
    folder = tmp_path_factory.mktemp("talker")
    stage = sft_stage(demos, steps=90, batch_size=16, checkpoint_every_steps=90)
    return run_to_end(stage_config(stage, digits_folder / "model", folder), folder).model
