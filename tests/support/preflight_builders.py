"""Stage configs of good data, to be spoilt, and the preflight as launchers call it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from commands import Done
from prism_api.stage_config import StageConfig
from run_builders import Changes, a_plan

QUESTION = [{"role": "user", "content": "Which digit?"}]


def configs(changes: Changes | None = None) -> list[StageConfig]:
    """Of the first attempts of all stages."""
    return [step.config(1, None) for step in a_plan(changes).train_steps]


def written(folder: Path, configs: Sequence[StageConfig]) -> list[Path]:
    """As files."""
    paths = [folder / f"{config.kind}.json" for config in configs]
    for path, config in zip(paths, configs, strict=True):
        path.write_text(config.to_json())
    return paths


def checked(*paths: Path) -> Done:
    """By the command."""
    command = [sys.executable, "-m", "prism_trainer.preflight", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def spoil(path: Path) -> None:
    """Replace the second row by one that suits no stage."""
    path.write_text(path.read_text().splitlines()[0] + "\n{}\n")
