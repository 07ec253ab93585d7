"""Alignment with gating: graded answers reach the advantage, and nothing else changes."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from prism_api.gating import Gating
from prism_api.resources import DataSource
from prism_trainer.rewards.response import parse_response
from rlvr_builders import Update, watch_updates
from stage_builders import (
    UNVERIFIABLE,
    Finished,
    Row,
    align_stage,
    run_to_end,
    stage_config,
    teacher_parts,
    with_truth,
    write_rows,
)

MODES = get_args(Gating.model_fields["mode"].annotation)


def run(talker: Path, folder: Path, data: DataSource, gating: Any, **changes: Any) -> Finished:
    """One step of the game."""
    folder.mkdir(exist_ok=True)
    stage = align_stage(data, steps=1, rollouts_per_prompt=6, gating=gating, **changes)
    return run_to_end(stage_config(stage, talker, folder), folder)


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[Update]:
    return watch_updates(monkeypatch)


def advantages(update: Update) -> torch.Tensor:
    return torch.stack(list(update.advantages))


def answers(update: Update) -> list[list[str | None]]:
    """What each response answers; none: it has no format."""
    parsed = [[parse_response(text) for text in group.texts] for group in update.groups]
    return [[r.answer if r else None for r in group] for group in parsed]


def test_wrong_answers_pay_and_right_ones_do_not(
    talker: Path, teachers: DataSource, tmp_path: Path, updates: list[Update]
) -> None:
    """The discriminator's scores are those of the run without gating."""
    run(talker, tmp_path / "plain", teachers, None)
    gating = Gating(mode="acc_gating", wrong_penalty=0.75)
    finished = run(talker, tmp_path / "gated", teachers, gating)
    plain, gated = updates
    assert answers(plain) == answers(gated)
    wrong = [[float(a not in (None, "1")) for a in group] for group in answers(gated)]
    assert {0.0, 1.0} == {w for group in wrong for w in group}
    paid = advantages(plain) - advantages(gated)
    assert paid.flatten().tolist() == pytest.approx(0.75 * torch.tensor(wrong).flatten(), abs=1e-6)
    right = [a == "1" for group in answers(gated) for a in group]
    assert finished.column("accuracy") == pytest.approx([sum(right) / len(right)])


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_prefers_right_answers(
    talker: Path, teachers: DataSource, tmp_path: Path, updates: list[Update], mode: Any
) -> None:
    """With what alignment thinks of them turned down."""
    run(talker, tmp_path, teachers, Gating(mode=mode, align_coef=1e-3))
    (update,) = updates
    compared = 0
    for group, row in zip(answers(update), advantages(update), strict=True):
        right = [float(a) for a, answer in zip(row, group, strict=True) if answer == "1"]
        wrong = [float(a) for a, answer in zip(row, group, strict=True) if answer == "2"]
        assert not right or not wrong or min(right) > max(wrong)
        compared += bool(right and wrong)
    assert compared


def test_a_row_that_cannot_be_verified_is_aligned_without_its_answers(
    talker: Path, rows: list[Row], teachers: DataSource, tmp_path: Path, updates: list[Update]
) -> None:
    lost = [teacher_parts(with_truth(row, UNVERIFIABLE)) for row in rows]
    data = write_rows(tmp_path / "lost.parquet", lost)
    run(talker, tmp_path / "plain", data, None)
    finished = run(talker, tmp_path / "gated", data, Gating(mode="acc_gating"))
    plain, gated = map(advantages, updates)
    torch.testing.assert_close(gated, plain, rtol=0, atol=1e-6)
    assert plain.abs().max() > 0.1
    assert finished.column("accuracy") == [0.0]


def test_without_gating_no_answer_is_graded(
    talker: Path, teachers: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        pytest.fail("the verifier was asked")

    monkeypatch.setattr("prism_trainer.stages.run.grade_answers", refuse)
    monkeypatch.setattr("prism_trainer.stages.run.score_many", refuse)
    assert not run(talker, tmp_path, teachers, None).column("accuracy")
