"""Two processes under torchrun learn what one process learns, under every engine.

The same global batch, in float32: losses and all other metrics of every iteration agree to 1e-5.
DAPO is compared with itself only: each process fills its own share of the batch with informative
groups.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest

import stages_under_torchrun
from prism_api.gating import Gating
from prism_api.reinforcement import RolloutCorrection
from prism_api.resources import DataSource, Engine, Evaluation
from prism_api.run import AnyStage
from prism_api.stage_config import StageConfig
from prism_api.stages import Lora, Warmup
from prism_trainer.attempt import read_config
from prism_trainer.audit.__main__ import read_evidence
from prism_trainer.audit.checks import find_problems
from rlvr_builders import dapo_stage
from stage_builders import (
    Finished,
    Row,
    align_stage,
    pairs_of,
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
UNEVEN = ("align-uneven", "align-pairs-uneven", "align-supervised", "grpo-uneven")
RUNS: list[tuple[Engine, str]] = [
    ("replicated", "sft"),
    ("replicated", "align-learned"),
    ("replicated", "align-segment"),
    ("replicated", "align-pairs"),
    ("replicated", "grpo"),
    ("replicated", "gspo"),
    ("replicated", "dapo-static"),
    ("replicated", "dr-grpo"),
    ("replicated", "cispo-corrected"),
    ("fsdp2", "align-segment"),
    ("fsdp2", "grpo"),
    ("fsdp2", "grpo-lora"),
    *[(engine, name) for engine in SHARED for name in UNEVEN],
]
ALONE: list[tuple[Engine, str]] = [(engine, "dapo") for engine in SHARED]
"""Compared with themselves only."""
RESUMED: list[tuple[Engine, str]] = [("fsdp2", "align-segment"), ("fsdp2", "grpo-lora"), *ALONE]
DEEPSPEED: list[tuple[Engine, str]] = [
    ("deepspeed-zero2", "align-segment"),
    ("deepspeed-zero3", "grpo-lora"),
]
"""Compared with one process, and resumed."""


@pytest.fixture(scope="module")
def uneven(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Every third prompt is too long: of a batch of two, one process has none left."""
    mixed = [row if i % 3 else with_long_prompt(row) for i, row in enumerate(rows)]
    path = tmp_path_factory.mktemp("uneven") / "prompts.parquet"
    return write_rows(path, [teacher_parts(row) for row in mixed])


@pytest.fixture(scope="module")
def uneven_pairs(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Every third line is too long."""
    mixed = [row if i % 3 else with_long_prompt(row) for i, row in enumerate(pairs_of(rows))]
    return write_rows(tmp_path_factory.mktemp("uneven-pairs") / "pairs.parquet", mixed)


@pytest.fixture(scope="module")
def stages(
    demos: DataSource,
    teachers: DataSource,
    prompts: DataSource,
    pairs: DataSource,
    uneven: DataSource,
    uneven_pairs: DataSource,
) -> dict[str, AnyStage]:
    lora = Lora(rank=4)
    warmup: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-3, "steps": 3}
    few = {**warmup, "batch_size": 2}
    return {
        "sft": sft_stage(demos, steps=5, max_tokens_per_pack=150),
        "align-learned": align_stage(teachers),
        "align-segment": align_stage(teachers, discriminator={"routing": "segment"}),
        "align-pairs": align_stage(
            teachers,
            discriminator={"warmup": Warmup(data=pairs, **warmup)},
            gating=Gating(mode="rlvr_v2"),
        ),
        "grpo": rlvr_stage(
            prompts, learning_rate=1e-4, mini_batches=2, kl_coef=0.01, entropy_coef=0.001
        ),
        "grpo-lora": rlvr_stage(prompts, learning_rate=1e-3, kl_coef=0.01, lora=lora),
        "gspo": rlvr_stage(prompts, algorithm="gspo", steps=3, learning_rate=1e-4),
        "dapo-static": rlvr_stage(
            prompts, algorithm="dapo", dynamic_sampling=False, steps=3, learning_rate=1e-4
        ),
        "dr-grpo": rlvr_stage(prompts, algorithm="dr-grpo", steps=3, learning_rate=1e-4),
        "cispo-corrected": rlvr_stage(
            prompts,
            algorithm="cispo",
            steps=3,
            learning_rate=1e-4,
            rollout_correction=RolloutCorrection(level="sequence"),
        ),
        "dapo": dapo_stage(prompts),
        "align-uneven": align_stage(uneven, batch_size=2),
        "align-pairs-uneven": align_stage(
            uneven, batch_size=2, discriminator={"warmup": Warmup(data=uneven_pairs, **few)}
        ),
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


def folder_of(config: StageConfig) -> Path:
    """The work folder that `config_of` has made."""
    return Path(config.stage_uri.removeprefix("file://")).parents[1]


def finished(config: StageConfig, attempt: int = 1) -> Finished:
    return Finished(Path(config.stage_uri.removeprefix("file://")) / f"a{attempt}")


Prepare = Callable[[str, Engine, str, int], StageConfig]
"""Writes the config of a run: by its name, engine, folder and number of processes."""


@pytest.fixture(scope="module")
def prepare(
    stages: dict[str, AnyStage],
    talker: Path,
    prompts: DataSource,
    tmp_path_factory: pytest.TempPathFactory,
) -> Prepare:
    root = tmp_path_factory.mktemp("runs")

    def of(name: str, engine: Engine, folder: str, replicas: int) -> StageConfig:
        return config_of(stages[name], talker, prompts, root / folder, replicas, engine)

    return of


Kind = Literal["whole", "resumed"]
TwoRuns = dict[tuple[Engine, str, Kind], Finished]


def under_torchrun(
    whole: Sequence[tuple[Engine, str]], resumed: Sequence[tuple[Engine, str]], prepare: Prepare
) -> TwoRuns:
    """All of them in two processes of one torchrun."""
    found: TwoRuns = {}
    folders = []
    kinds: dict[Kind, Sequence[tuple[Engine, str]]] = {"whole": whole, "resumed": resumed}
    for kind, runs in kinds.items():
        for engine, name in runs:
            config = prepare(name, engine, f"{engine}-{name}-{kind}", 2)
            folders.append(folder_of(config))
            if kind == "resumed":
                # An iteration that has just made a checkpoint.
                (folders[-1] / "stop-after").write_text("2")
            found[engine, name, kind] = finished(config, 1 if kind == "whole" else 2)
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run_processes([*torchrun, str(stages_under_torchrun.__file__), *map(str, folders)])
    return found


def by_launcher(engine: Engine, name: str, prepare: Prepare) -> TwoRuns:
    """One run of two processes, as users start it."""
    config = prepare(name, engine, f"launched-{name}", 2)
    folder = folder_of(config)
    launcher = ["prism_trainer.launch", f"--config={folder / 'stage.json'}"]
    run_processes([*launcher, f"--work-folder={folder}"])
    return {(engine, name, "whole"): finished(config)}


@pytest.fixture(scope="module")
def by_two(prepare: Prepare) -> TwoRuns:
    """Every run by two processes, whole or resumed."""
    first, *others = RUNS
    launched = by_launcher(*first, prepare)
    return launched | under_torchrun([*others, *ALONE], RESUMED, prepare)


@pytest.fixture(scope="module")
def by_two_of_deepspeed(prepare: Prepare) -> TwoRuns:
    """The same under DeepSpeed."""
    return under_torchrun(DEEPSPEED, DEEPSPEED, prepare)


@pytest.fixture(scope="module")
def by_one(prepare: Prepare) -> Callable[[str], Finished]:
    """A stage by one process, run when it is asked for."""

    @cache
    def run(name: str) -> Finished:
        config = prepare(name, "replicated", f"one-{name}", 1)
        return run_to_end(config, folder_of(config))

    return run


@pytest.mark.parametrize(("engine", "name"), RUNS)
def test_two_processes_have_the_metrics_and_weights_of_one(
    engine: Engine, name: str, by_one: Callable[[str], Finished], by_two: TwoRuns
) -> None:
    assert_equal(by_two[engine, name, "whole"], by_one(name), is_uneven=name in UNEVEN)


@pytest.mark.references
@pytest.mark.parametrize(("engine", "name"), DEEPSPEED)
def test_two_processes_of_deepspeed_have_the_metrics_and_weights_of_one(
    engine: Engine, name: str, by_one: Callable[[str], Finished], by_two_of_deepspeed: TwoRuns
) -> None:
    assert_equal(by_two_of_deepspeed[engine, name, "whole"], by_one(name), is_uneven=False)


def assert_equal(two: Finished, one: Finished, is_uneven: bool) -> None:
    assert len(two.history()) == len(one.history()) >= 3
    assert (1.0 in two.column("dropped_samples")) == is_uneven
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
    engine: Engine, name: str, by_two: TwoRuns
) -> None:
    """DAPO: each process with a surplus of its own."""
    assert_same_end(by_two[engine, name, "resumed"], by_two[engine, name, "whole"])


@pytest.mark.references
@pytest.mark.parametrize(("engine", "name"), DEEPSPEED)
def test_a_resumed_run_of_deepspeed_ends_bitwise_where_an_undisturbed_one_ends(
    engine: Engine, name: str, by_two_of_deepspeed: TwoRuns
) -> None:
    runs = by_two_of_deepspeed
    assert_same_end(runs[engine, name, "resumed"], runs[engine, name, "whole"])


def assert_same_end(resumed: Finished, whole: Finished) -> None:
    assert len(resumed.history()) >= 4
    assert resumed.history() == whole.history()
    ours, theirs = resumed.tensors(), whole.tensors()
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key] != theirs[key]] == []
