"""A stage that was interrupted anywhere and goes on ends bitwise where an undisturbed one ends.

Every phase of every stage, stopped (it saves itself) and crashed (it falls back to its last
checkpoint). What is compared: policy, optimizers and discriminator of the last checkpoint, and the
metrics of every iteration.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prism_api.errors import SpecError
from prism_api.gating import Gating
from prism_api.resources import DataSource, Evaluation
from prism_api.run import AnyStage
from prism_api.stage_config import StageConfig
from prism_api.stages import Lora, Warmup
from prism_trainer.stages.sft import SftProgram
from stage_builders import (
    Crash,
    Finished,
    align_stage,
    crash_after,
    rlvr_stage,
    run_attempt,
    run_to_end,
    sft_stage,
    stage_config,
    stop_after,
)


@dataclass(frozen=True)
class Inputs:
    """Data of all stages and the policy that they start from."""

    demos: DataSource
    teachers: DataSource
    prompts: DataSource
    pairs: DataSource
    talker: Path


@pytest.fixture(scope="module")
def inputs(
    demos: DataSource,
    teachers: DataSource,
    prompts: DataSource,
    pairs: DataSource,
    talker: Path,
) -> Inputs:
    return Inputs(demos, teachers, prompts, pairs, talker)


STAGES: dict[str, Callable[[Inputs], AnyStage]] = {
    "sft": lambda i: sft_stage(i.demos, schedule="cosine", warmup_ratio=0.3),
    "sft-lora": lambda i: sft_stage(
        i.demos, lora=Lora(rank=4, dropout=0.1), train_vision_tower=True
    ),
    "align": lambda i: align_stage(i.teachers),
    "align-segment": lambda i: align_stage(i.teachers, discriminator={"routing": "segment"}),
    "align-pairs": lambda i: align_stage(
        i.teachers,
        discriminator={"warmup": Warmup(data=i.pairs, steps=3, batch_size=8, learning_rate=1e-3)},
        gating=Gating(mode="sign_align"),
    ),
    "grpo": lambda i: rlvr_stage(i.prompts, mini_batches=2, kl_coef=0.01, entropy_coef=0.001),
    "dapo": lambda i: rlvr_stage(
        i.prompts, algorithm="dapo", batch_size=2, generation_batch_size=8, learning_rate=1e-4
    ),
    "gspo": lambda i: rlvr_stage(i.prompts, algorithm="gspo", mini_batches=2),
}


@pytest.fixture(scope="module")
def undisturbed(
    inputs: Inputs, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Finished]:
    """The stage run through in one go; once for all tests."""
    done: dict[str, Finished] = {}

    def finished(name: str) -> Finished:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            config = stage_config(STAGES[name](inputs), inputs.talker, folder)
            done[name] = run_to_end(config, folder)
        return done[name]

    return finished


def assert_equal(ours: Finished, theirs: Finished) -> None:
    assert ours.history() == theirs.history()
    mine, other = ours.tensors(), theirs.tensors()
    assert mine.keys() == other.keys()
    assert [name for name in mine if mine[name] != other[name]] == []


# Alignment warms up in iterations 1 to 3 and plays in 4 to 6; every second one is saved.
STOPS = [
    ("sft", 1),
    ("sft", 3),
    ("sft-lora", 3),
    ("align", 1),
    ("align", 3),
    ("align", 5),
    ("align-segment", 4),
    ("align-pairs", 1),
    ("align-pairs", 2),
    ("align-pairs", 4),
    ("grpo", 1),
    ("grpo", 3),
    ("dapo", 1),
    ("dapo", 2),
    ("gspo", 3),
]
CRASHES = [("sft", 3), ("align", 3), ("align", 5), ("align-pairs", 3), ("grpo", 3), ("dapo", 3)]


def again(config: StageConfig) -> StageConfig:
    return config.model_copy(update={"attempt": config.attempt + 1})


@pytest.mark.parametrize(("name", "iterations"), STOPS)
def test_a_stopped_stage_goes_on_as_if_nothing_had_been(
    inputs: Inputs,
    undisturbed: Callable[[str], Finished],
    tmp_path: Path,
    name: str,
    iterations: int,
) -> None:
    config = stage_config(STAGES[name](inputs), inputs.talker, tmp_path)
    assert not run_attempt(config, tmp_path, stop_after(iterations))
    saved = tmp_path / "store" / config.kind / "a1" / f"step-{iterations}"
    assert (saved / "manifest.json").is_file()
    assert_equal(run_to_end(again(config), tmp_path), undisturbed(name))


@pytest.mark.parametrize(("name", "iterations"), CRASHES)
def test_a_crashed_stage_repeats_what_was_not_saved(
    inputs: Inputs,
    undisturbed: Callable[[str], Finished],
    tmp_path: Path,
    name: str,
    iterations: int,
) -> None:
    config = stage_config(STAGES[name](inputs), inputs.talker, tmp_path)
    with pytest.raises(Crash):
        run_attempt(config, tmp_path, crash_after(iterations))
    saved = tmp_path / "store" / config.kind / "a1"
    kept = {f"step-{n}" for n in range(2, iterations + 1, 2)}
    assert {path.name for path in saved.iterdir()} == kept
    assert_equal(run_to_end(config, tmp_path), undisturbed(name))


def test_a_stage_interrupted_after_every_iteration_arrives_too(
    inputs: Inputs, undisturbed: Callable[[str], Finished], tmp_path: Path
) -> None:
    config = stage_config(STAGES["align"](inputs), inputs.talker, tmp_path)
    for _ in range(6):
        assert not run_attempt(config, tmp_path, stop_after(1) if _ else stop_after(0))
        config = again(config)
    assert_equal(run_to_end(config, tmp_path), undisturbed("align"))


def test_running_a_finished_stage_again_changes_nothing(
    inputs: Inputs, undisturbed: Callable[[str], Finished], tmp_path: Path
) -> None:
    config = stage_config(STAGES["grpo"](inputs), inputs.talker, tmp_path)
    run_to_end(config, tmp_path)
    assert_equal(run_to_end(config, tmp_path), undisturbed("grpo"))


def test_a_stage_stopped_while_it_evaluates_has_only_the_evaluation_left(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = Evaluation(data=inputs.prompts, batch_size=4, max_response_tokens=40)
    config, other = (
        stage_config(sft_stage(inputs.demos), inputs.talker, tmp_path / name, evaluation=evaluation)
        for name in ("stopped", "undisturbed")
    )
    whole = run_to_end(other, tmp_path / "undisturbed")
    # Six iterations and the first of four batches.
    assert not run_attempt(config, tmp_path / "stopped", stop_after(7))
    attempt = tmp_path / "stopped" / "store" / "sft" / "a1"
    assert (attempt / "step-6" / "manifest.json").is_file()
    assert not (attempt / "result.json").exists()
    monkeypatch.setattr(SftProgram, "iterate", lambda *_: pytest.fail("all steps were done"))
    resumed = run_to_end(again(config), tmp_path / "stopped")
    assert resumed.history() == whole.history()
    ours, theirs = resumed.result(), whole.result()
    assert ours["evaluation"] == theirs["evaluation"]
    assert ours["evaluation"]["samples"] == 16
    assert ours["steps"] == theirs["steps"] == 6


def test_a_resume_under_other_settings_engines_or_processes_is_refused(
    inputs: Inputs, tmp_path: Path
) -> None:
    config = stage_config(sft_stage(inputs.demos), inputs.talker, tmp_path)
    assert not run_attempt(config, tmp_path, stop_after(1))
    others: list[dict[str, Any]] = [
        {"stage": sft_stage(inputs.demos, learning_rate=1e-3)},
        {"stage": config.stage, "engine": "fsdp2"},
        {"stage": config.stage, "replicas": 2},
    ]
    for other in others:
        changed = stage_config(**other, model=inputs.talker, folder=tmp_path)
        with pytest.raises(SpecError, match="other settings"):
            run_attempt(changed, tmp_path)


@pytest.mark.parametrize("name", ["sft", "align", "grpo"])
def test_another_seed_gives_another_run(
    inputs: Inputs, undisturbed: Callable[[str], Finished], tmp_path: Path, name: str
) -> None:
    config = stage_config(STAGES[name](inputs), inputs.talker, tmp_path, seed=1)
    assert run_to_end(config, tmp_path).tensors() != undisturbed(name).tensors()
