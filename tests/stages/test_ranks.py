"""Two processes under torchrun learn what one process learns.

The same global batch, in float32: losses and all other metrics of every iteration agree to 1e-5.
DAPO is compared with itself only: each process fills its own share of the batch with informative
groups.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import stages_under_torchrun
from prism_api.resources import DataSource, Evaluation
from prism_api.run import AnyStage
from prism_api.stage_config import StageConfig
from rlvr_builders import dapo_stage
from stage_builders import (
    Finished,
    Row,
    align_stage,
    rlvr_stage,
    run_to_end,
    sft_stage,
    stage_config,
    teacher_parts,
    with_long_prompt,
    write_rows,
)

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def uneven(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Every third prompt is too long: of a batch of two, one process has none left."""
    mixed = [row if i % 3 else with_long_prompt(row) for i, row in enumerate(rows)]
    path = tmp_path_factory.mktemp("uneven") / "prompts.parquet"
    return write_rows(path, [teacher_parts(row) for row in mixed])


@pytest.fixture(scope="module")
def stages(
    demos: DataSource, teachers: DataSource, prompts: DataSource, uneven: DataSource
) -> dict[str, AnyStage]:
    return {
        "sft": sft_stage(demos, steps=5, max_tokens_per_pack=150),
        "align-learned": align_stage(teachers),
        "align-segment": align_stage(teachers, discriminator={"routing": "segment"}),
        "grpo": rlvr_stage(
            prompts, learning_rate=1e-4, mini_batches=2, kl_coef=0.01, entropy_coef=0.001
        ),
        "gspo": rlvr_stage(prompts, algorithm="gspo", steps=3, learning_rate=1e-4),
        "align-uneven": align_stage(uneven, batch_size=2),
        "align-supervised": align_stage(uneven, batch_size=2, objective="supervised"),
        "grpo-uneven": rlvr_stage(uneven, learning_rate=1e-4, batch_size=2, mini_batches=2),
    }


def config_of(
    stage: AnyStage, talker: Path, prompts: DataSource, folder: Path, replicas: int
) -> StageConfig:
    folder.mkdir(parents=True)
    evaluation = Evaluation(data=prompts, max_response_tokens=40)
    config = stage_config(stage, talker, folder, replicas=replicas, evaluation=evaluation)
    (folder / "stage.json").write_text(config.to_json())
    return config


def run_processes(command: list[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,  # processes that wait for each other wait for ever
    )
    assert done.returncode == 0, done.stderr


def finished(config: StageConfig) -> Finished:
    return Finished(Path(config.stage_uri.removeprefix("file://")) / "a1")


@pytest.fixture(scope="module")
def by_two(
    stages: dict[str, AnyStage],
    talker: Path,
    prompts: DataSource,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Finished]:
    """Every stage by two processes; alignment and RLVR share one torchrun."""
    root = tmp_path_factory.mktemp("two")
    stages = {**stages, **dict.fromkeys(("dapo", "dapo-stopped"), dapo_stage(prompts))}
    configs = {
        name: config_of(stage, talker, prompts, root / name, 2) for name, stage in stages.items()
    }
    # An iteration that has just made a checkpoint.
    (root / "dapo-stopped" / "stop-after").write_text("2")
    launcher = ["prism_trainer.launch", f"--config={root / 'sft' / 'stage.json'}"]
    run_processes([*launcher, f"--work-folder={root / 'sft'}"])
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    others = [str(root / name) for name in stages if name != "sft"]
    run_processes([*torchrun, str(stages_under_torchrun.__file__), *others])
    return {name: finished(config) for name, config in configs.items()}


NAMES = ("sft", "align-learned", "align-segment", "grpo", "gspo")
UNEVEN = ("align-uneven", "align-supervised", "grpo-uneven")


@pytest.mark.parametrize("name", [*NAMES, *UNEVEN])
def test_two_processes_have_the_metrics_and_weights_of_one(
    name: str,
    stages: dict[str, AnyStage],
    by_two: dict[str, Finished],
    talker: Path,
    prompts: DataSource,
    tmp_path: Path,
) -> None:
    folder = tmp_path / name
    one = run_to_end(config_of(stages[name], talker, prompts, folder, 1), folder)
    two = by_two[name]
    assert len(two.history()) == len(one.history()) >= 3
    assert (1.0 in two.column("dropped_samples")) == (name in UNEVEN)
    for ours, theirs in zip(two.history(), one.history(), strict=True):
        assert ours.pop("phase") == theirs.pop("phase")
        # Absolute for what is of size one or less (losses, rates), relative beyond.
        assert ours == pytest.approx(theirs, abs=TOLERANCE, rel=TOLERANCE)
    assert two.result()["evaluation"] == one.result()["evaluation"]
    weights = two.weights()
    for key, tensor in one.weights().items():
        # Adam turns the rounding of a gradient next to 0 into a visible step.
        assert (weights[key] - tensor).abs().mean() < 1e-6, key


def test_two_processes_that_stop_and_resume_arrive_where_undisturbed_ones_do(
    by_two: dict[str, Finished],
) -> None:
    """Each with a surplus of its own."""
    stopped, undisturbed = by_two["dapo-stopped"], by_two["dapo"]
    assert len(stopped.history()) == 4
    assert stopped.history() == undisturbed.history()
    assert stopped.tensors() == undisturbed.tensors()
