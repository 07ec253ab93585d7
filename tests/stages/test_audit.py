"""The record of a stage shows that every step, prompt and sample was used exactly once, however
often the stage was killed; and whatever is not so, the audit finds.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from prism_api.errors import SpecError
from prism_api.exit_codes import ExitCode
from prism_api.gating import Gating
from prism_api.resources import DataSource, Rollout
from prism_api.run import AnyStage
from prism_api.stage_config import StageConfig
from prism_api.stages import Warmup
from prism_trainer.audit.__main__ import describe, read_evidence
from prism_trainer.audit.checks import Evidence, find_problems
from prism_trainer.record import GroupRecord
from stage_builders import (
    Crash,
    Row,
    align_stage,
    crash_after,
    rlvr_stage,
    run_attempt,
    run_to_end,
    sft_stage,
    stage_config,
    stop_after,
    teacher_parts,
    with_long_prompt,
    write_rows,
)
from tampered_records import PROMPTS, SAMPLES, STEPS, changed, edit_sample


@pytest.fixture(scope="module")
def uneven(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Every third of 15 prompts is too long; batches of four cross the border of an epoch."""
    mixed = [row if i % 3 else with_long_prompt(row) for i, row in enumerate(rows[:15])]
    path = tmp_path_factory.mktemp("uneven") / "prompts.parquet"
    return write_rows(path, [teacher_parts(row) for row in mixed])


@pytest.fixture(scope="module")
def stages(
    demos: DataSource, uneven: DataSource, pairs: DataSource, prompts: DataSource
) -> dict[str, AnyStage]:
    one_pass = Warmup(data=pairs, batch_size=4)
    return {
        "sft": sft_stage(demos, steps=9),
        "align": align_stage(uneven, steps=5),
        "align-supervised": align_stage(uneven, steps=5, objective="supervised"),
        # A line more than there are prompts, and a step more for it.
        "align-pairs": align_stage(
            uneven,
            steps=5,
            discriminator={"warmup": one_pass},
            gating=Gating(mode="acc_gating", wrong_penalty=0.75),
        ),
        "grpo": rlvr_stage(uneven, steps=5, mini_batches=2),
        "dapo": rlvr_stage(
            prompts,
            algorithm="dapo",
            steps=6,
            batch_size=2,
            generation_batch_size=8,
            learning_rate=1e-4,
        ),
    }


def killed_and_resumed(config: StageConfig, folder: Path) -> StageConfig:
    """Killed between two checkpoints, stopped, and finished by a third attempt; its config."""
    with pytest.raises(Crash):
        run_attempt(config, folder, crash_after(3))
    assert not run_attempt(again(config), folder, stop_after(1))
    run_to_end(again(again(config)), folder)
    return again(again(config))


def again(config: StageConfig) -> StageConfig:
    return config.model_copy(update={"attempt": config.attempt + 1})


@pytest.fixture(scope="module")
def resumed(
    stages: dict[str, AnyStage], talker: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], StageConfig]:
    """The config of a stage that was killed, stopped and finished; once for all tests."""
    done: dict[str, StageConfig] = {}

    def resumed(name: str) -> StageConfig:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = killed_and_resumed(stage_config(stages[name], talker, folder), folder)
        return done[name]

    return resumed


NAMES = ["sft", "align", "align-supervised", "align-pairs", "grpo", "dapo"]


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_and_resumed_stage_has_used_everything_once(
    resumed: Callable[[str], StageConfig], name: str
) -> None:
    evidence = read_evidence(resumed(name))
    assert find_problems(evidence) == []
    assert len(evidence.rows) == len(evidence.planned) == evidence.manifest.step
    assert [row.attempt for row in evidence.rows][:4] == [1, 1, 2, 3]
    assert any(len(row.drawn) < row.end - row.first for row in evidence.rows) == (
        name in ("align", "align-supervised", "align-pairs", "grpo")
    ), "some prompts are too long"


def test_a_warm_up_on_a_file_draws_its_lines_and_samples_nothing(
    resumed: Callable[[str], StageConfig],
) -> None:
    evidence = read_evidence(resumed("align-pairs"))
    assert (evidence.data_size, evidence.pairs_size) == (15, 16)
    warmup = [row for row in evidence.rows if row.phase == "warmup"]
    assert [(row.first, row.end) for row in warmup] == [(0, 4), (4, 8), (8, 12), (12, 16)]
    assert sorted(group.draw for row in warmup for group in row.drawn) == list(range(16))
    assert not any(group.samples for row in warmup for group in row.drawn)
    misread = replace(evidence, pairs_size=15)
    assert "line 4 is step 4 of warmup, step 1 of train was to come" in find_problems(misread)


@pytest.mark.parametrize("name", ["align", "dapo"])
def test_its_record_is_that_of_an_undisturbed_one(
    resumed: Callable[[str], StageConfig],
    stages: dict[str, AnyStage],
    talker: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """To the digest of every sample."""
    config = stage_config(stages[name], talker, tmp_path)
    run_to_end(config, tmp_path)
    whole, ours = (read_evidence(c).rows for c in (config, resumed(name)))
    assert [row.model_copy(update={"attempt": 1}) for row in ours] == list(whole)


def test_dapo_trains_on_a_surplus_from_before_the_kill(
    resumed: Callable[[str], StageConfig],
) -> None:
    """Otherwise its audit would show less than it says."""
    rows = read_evidence(resumed("dapo")).rows
    carried = [
        {use.position for part in after.trained for use in part}
        & {group.position for group in before.drawn}
        for before, after in pairwise(rows)
        if before.attempt < after.attempt
    ]
    assert len(carried) == 2
    assert any(carried)


SAMPLING = ["align", "align-pairs", "grpo", "dapo"]
CASES = [
    (name, case)
    for names, cases in ((NAMES, STEPS), (NAMES, PROMPTS), (SAMPLING, SAMPLES))
    for name in names
    for case in cases
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_record_that_was_tampered_with_is_found(
    resumed: Callable[[str], StageConfig], name: str, case: str
) -> None:
    change, complaint = (STEPS | PROMPTS | SAMPLES)[case]
    problems = changed(read_evidence(resumed(name)), change)
    assert any(re.search(complaint, problem) for problem in problems), problems


def served(evidence: Evidence) -> Evidence:
    """The same as if rollout servers had sampled it."""
    rollout = Rollout(backend="vllm", gpus_per_replica=0)
    config = evidence.config.model_copy(update={"rollout": rollout})
    planned = replace(evidence, config=config).planned
    rows = []
    for row, step in zip(evidence.rows, planned, strict=True):
        groups = []
        for group in row.drawn:
            seeds = step.seeds(group.draw, 0)
            samples = [
                sample.model_copy(update={"seed": seed, "weights": f"a{row.attempt}v{step.number}"})
                for sample, seed in zip(group.samples, seeds, strict=True)
            ]
            groups.append(group.model_copy(update={"samples": tuple(samples)}))
        rows.append(row.model_copy(update={"drawn": tuple(groups)}))
    return replace(evidence, config=config, rows=tuple(rows))


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ("", "a sample without a weights digest"),
        ("a3v7", "samples of weights 8 with different digests"),
        (None, "weights of different versions have the same digest"),
    ],
)
def test_samples_of_a_server_have_the_digest_of_their_version(
    resumed: Callable[[str], StageConfig], weights: str | None, complaint: str
) -> None:
    evidence = served(read_evidence(resumed("grpo")))
    assert find_problems(evidence) == []
    if weights is not None:
        problems = changed(evidence, lambda rows: edit_sample(rows, weights=weights))
    else:
        old = evidence.rows[-2].drawn[0].samples[0].weights
        last = evidence.rows[-1].model_copy(
            update={"drawn": tuple(with_weights(group, old) for group in evidence.rows[-1].drawn)}
        )
        problems = find_problems(replace(evidence, rows=(*evidence.rows[:-1], last)))
    assert any(complaint in problem for problem in problems), problems


def with_weights(group: GroupRecord, weights: str) -> GroupRecord:
    samples = tuple(s.model_copy(update={"weights": weights}) for s in group.samples)
    return group.model_copy(update={"samples": samples})


def audit(*arguments: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "prism_trainer.audit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_says_what_was_used_and_fails_for_what_was_not(
    resumed: Callable[[str], StageConfig], tmp_path: Path
) -> None:
    config = resumed("grpo")
    store = tmp_path / "store"
    shutil.copytree(config.stage_uri.removeprefix("file://"), store)
    config = config.model_copy(update={"stage_uri": f"file://{store}"})
    path = tmp_path / "stage.json"
    path.write_text(config.to_json())

    done = audit(path)
    assert done.returncode == ExitCode.DONE, done.stderr
    assert done.stdout == (
        "rlvr: 5 of 5 steps in 3 attempt(s), 20 prompts (7 too long), 52 samples: each used once\n"
    )

    record = next(store.glob("a*/step-5/record.jsonl"))
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join([*lines[:3], lines[2], *lines[4:]]))
    done = audit(path)
    assert done.returncode == ExitCode.STORE, "no object of a checkpoint changes unseen"
    assert "record.jsonl" in done.stderr

    seal_again(record.parent)
    done = audit(path)
    assert done.returncode == ExitCode.CRASHED
    assert "NOT as it should be\n  line 4 is step 3 of train, step 4 of train was" in done.stdout


def seal_again(checkpoint: Path) -> None:
    """A manifest for the files as they are now."""
    path = checkpoint / "manifest.json"
    document = json.loads(path.read_text())
    for entry in document["objects"]:
        content = (checkpoint / entry["path"]).read_bytes()
        entry["sha256"] = hashlib.sha256(content).hexdigest()
        entry["sizeBytes"] = len(content)
    path.write_text(json.dumps(document))


def test_an_unfinished_stage_is_audited_as_far_as_it_has_come(
    stages: dict[str, AnyStage], talker: Path, tmp_path: Path
) -> None:
    config = stage_config(stages["grpo"], talker, tmp_path)
    with pytest.raises(SpecError, match="has no checkpoint yet"):
        read_evidence(config)
    assert not run_attempt(config, tmp_path, stop_after(3))
    evidence = read_evidence(config)
    assert find_problems(evidence) == []
    assert describe(evidence).startswith("rlvr: 3 of 5 steps in 1 attempt")


def test_the_record_of_another_stage_is_no_evidence(
    resumed: Callable[[str], StageConfig],
) -> None:
    config = resumed("grpo").model_copy(update={"seed": 1})
    with pytest.raises(SpecError, match="written under other settings"):
        read_evidence(config)
