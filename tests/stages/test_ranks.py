"""Two processes under torchrun learn what one process learns, under every engine.

The same global batch, in float32: losses and all other metrics of every iteration agree to 1e-5.
DAPO is compared with itself only: each process fills its own share of the batch with informative
groups.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import stages_under_torchrun
from prism_api.resources import DataSource, Engine, Evaluation
from prism_api.run import AnyStage
from prism_api.stage_config import StageConfig
from prism_api.stages import Lora
from prism_trainer.attempt import read_config
from prism_trainer.audit.__main__ import read_evidence
from prism_trainer.audit.checks import find_problems
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
SHARED: tuple[Engine, ...] = ("replicated", "fsdp2")
UNEVEN = ("align-uneven", "align-supervised", "grpo-uneven")
RUNS: list[tuple[Engine, str]] = [
    ("replicated", "sft"),
    ("replicated", "align-learned"),
    ("replicated", "align-segment"),
    ("replicated", "grpo"),
    ("replicated", "gspo"),
    ("fsdp2", "align-segment"),
    ("fsdp2", "grpo"),
    ("fsdp2", "grpo-lora"),
    *[(engine, name) for engine in SHARED for name in UNEVEN],
]
ALONE: list[tuple[Engine, str]] = [(engine, "dapo") for engine in SHARED]
"""Compared with themselves only."""
RESUMED: list[tuple[Engine, str]] = [("fsdp2", "align-segment"), ("fsdp2", "grpo-lora"), *ALONE]
if find_spec("deepspeed"):
    RUNS += [("deepspeed-zero2", "align-segment"), ("deepspeed-zero3", "grpo-lora")]
    RESUMED += [("deepspeed-zero2", "align-segment"), ("deepspeed-zero3", "grpo-lora")]


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
    lora = Lora(rank=4)
    return {
        "sft": sft_stage(demos, steps=5, max_tokens_per_pack=150),
        "align-learned": align_stage(teachers),
        "align-segment": align_stage(teachers, discriminator={"routing": "segment"}),
        "grpo": rlvr_stage(
            prompts, learning_rate=1e-4, mini_batches=2, kl_coef=0.01, entropy_coef=0.001
        ),
        "grpo-lora": rlvr_stage(prompts, learning_rate=1e-3, kl_coef=0.01, lora=lora),
        "gspo": rlvr_stage(prompts, algorithm="gspo", steps=3, learning_rate=1e-4),
        "dapo": dapo_stage(prompts),
        "align-uneven": align_stage(uneven, batch_size=2),
        "align-supervised": align_stage(uneven, batch_size=2, objective="supervised"),
        "grpo-uneven": rlvr_stage(uneven, learning_rate=1e-4, batch_size=2, mini_batches=2),
    }


def config_of(
    stage: AnyStage,
    talker: Path,
    prompts: DataSource,
    folder: Path,
    replicas: int,
    engine: Engine = "replicated",
) -> StageConfig:
    folder.mkdir(parents=True)
    # Three questions for two processes in batches of one: one process has nothing left to ask.
    evaluation = Evaluation(data=prompts, max_response_tokens=40, max_samples=3, batch_size=1)
    config = stage_config(
        stage, talker, folder, replicas=replicas, evaluation=evaluation, engine=engine
    )
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


def finished(config: StageConfig, attempt: int = 1) -> Finished:
    return Finished(Path(config.stage_uri.removeprefix("file://")) / f"a{attempt}")


@pytest.fixture(scope="module")
def by_two(
    stages: dict[str, AnyStage],
    talker: Path,
    prompts: DataSource,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[Engine, str, str], Finished]:
    """Every run by two processes, whole or resumed; all but the first share one torchrun."""
    root = tmp_path_factory.mktemp("two")
    found = {}
    for kind, runs in {"whole": [*RUNS, *ALONE], "resumed": RESUMED}.items():
        for engine, name in runs:
            folder = root / f"{engine}-{name}-{kind}"
            config = config_of(stages[name], talker, prompts, folder, 2, engine)
            if kind == "resumed":
                # An iteration that has just made a checkpoint.
                (folder / "stop-after").write_text("2")
            found[engine, name, kind] = finished(config, 1 if kind == "whole" else 2)
    first, *others = [str(path) for path in root.iterdir() if path.name != "replicated-sft-whole"]
    launched = root / "replicated-sft-whole"
    launcher = ["prism_trainer.launch", f"--config={launched / 'stage.json'}"]
    run_processes([*launcher, f"--work-folder={launched}"])
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run_processes([*torchrun, str(stages_under_torchrun.__file__), first, *others])
    return found


@pytest.fixture(scope="module")
def by_one(
    stages: dict[str, AnyStage],
    talker: Path,
    prompts: DataSource,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Finished]:
    """Every stage by one process."""
    root = tmp_path_factory.mktemp("one")
    return {
        name: run_to_end(config_of(stage, talker, prompts, root / name, 1), root / name)
        for name, stage in stages.items()
        if name != "dapo"
    }


@pytest.mark.parametrize(("engine", "name"), RUNS)
def test_two_processes_have_the_metrics_and_weights_of_one(
    engine: Engine,
    name: str,
    by_one: dict[str, Finished],
    by_two: dict[tuple[Engine, str, str], Finished],
) -> None:
    one, two = by_one[name], by_two[engine, name, "whole"]
    assert len(two.history()) == len(one.history()) >= 3
    assert (1.0 in two.column("dropped_samples")) == (name in UNEVEN)
    for ours, theirs in zip(two.history(), one.history(), strict=True):
        assert ours.pop("phase") == theirs.pop("phase")
        # Absolute for what is of size one or less (losses, rates), relative beyond.
        assert ours == pytest.approx(theirs, abs=TOLERANCE, rel=TOLERANCE)
    assert two.result()["evaluation"] == one.result()["evaluation"]
    weights = two.weights()
    assert weights.keys() == one.weights().keys()
    for key, tensor in one.weights().items():
        # Adam turns the rounding of a gradient next to 0 into a visible step.
        assert (weights[key] - tensor).abs().mean() < 1e-6, key


def test_every_record_of_two_processes_shows_that_everything_was_used_once(
    by_two: dict[tuple[Engine, str, str], Finished],
) -> None:
    for key, finished in by_two.items():
        evidence = read_evidence(read_config(finished.attempt.parents[2] / "stage.json"))
        assert (find_problems(evidence), evidence.is_complete) == ([], True), key


@pytest.mark.parametrize(("engine", "name"), RESUMED)
def test_a_resumed_run_ends_bitwise_where_an_undisturbed_one_ends(
    engine: Engine, name: str, by_two: dict[tuple[Engine, str, str], Finished]
) -> None:
    """DAPO: each process with a surplus of its own."""
    whole, resumed = (by_two[engine, name, kind] for kind in ("whole", "resumed"))
    assert len(resumed.history()) >= 4
    assert resumed.history() == whole.history()
    ours, theirs = resumed.tensors(), whole.tensors()
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key] != theirs[key]] == []
