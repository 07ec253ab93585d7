"""The discriminator's warm-up on a file of teacher and student texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from prism_api.errors import DataError
from prism_api.resources import DataSource
from prism_api.stages import Warmup
from prism_trainer.discriminator.comparison import Comparison
from prism_trainer.discriminator.discriminator import Discriminator, ScoredBatch
from prism_trainer.stages import align
from prism_trainer.stages.sampling import sample
from stage_builders import (
    Finished,
    Row,
    align_stage,
    answer_text,
    pairs_of,
    run_to_end,
    stage_config,
    with_long_prompt,
    with_text,
    write_rows,
)

Batch = tuple[Sequence[Comparison], ScoredBatch]


def run(
    talker: Path, teachers: DataSource, folder: Path, data: DataSource, **warmup: Any
) -> Finished:
    """One step of the game after a warm-up on the file."""
    settings = {"batch_size": 4, "learning_rate": 1e-3, "data": data, **warmup}
    stage = align_stage(teachers, steps=1, discriminator={"warmup": Warmup(**settings)})
    folder.mkdir(exist_ok=True)
    return run_to_end(stage_config(stage, talker, folder), folder)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """What the discriminator is trained on from now on."""
    seen: list[Batch] = []
    inner = Discriminator.train_on

    def watching(self: Discriminator, comparisons: Any, scored: Any, step: int) -> Any:
        seen.append((comparisons, scored))
        return inner(self, comparisons, scored, step)

    monkeypatch.setattr(Discriminator, "train_on", watching)
    return seen


def test_the_warm_up_is_one_pass_over_the_lines_without_a_sampled_response(
    talker: Path,
    teachers: DataSource,
    pairs: DataSource,
    rows: list[Row],
    tmp_path: Path,
    batches: list[Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every line gives its caption pair and its reasoning pair."""
    sampled: list[tuple[Any, ...]] = []

    def watching(*arguments: Any) -> Any:
        sampled.append(arguments[-1])
        return sample(*arguments)

    monkeypatch.setattr(align, "sample", watching)
    finished = run(talker, teachers, tmp_path, pairs)
    assert [row["phase"] for row in finished.history()] == ["warmup"] * 4 + ["train"]
    assert sampled == [("align", "train", 0)]
    lines = [comparison for comparisons, _ in batches[:4] for comparison in comparisons]
    assert [len(comparison.students) for comparison in lines] == [1] * len(rows)
    read = sorted(tuple(map(tuple, comparison.students[0])) for comparison in lines)
    assert len({comparison.prompt.token_ids.tobytes() for comparison in lines}) > 1
    expected = sorted(
        tuple(tuple(segment.tolist()) for segment in encoded(talker, row, "student"))
        for row in pairs_of(rows)
    )
    assert [tuple(tuple(s.tolist()) for s in c.students[0]) for c in lines] != expected, "shuffled"
    assert read == expected
    (teacher,) = {tuple(map(bytes, comparison.teacher)) for comparison in lines}
    assert teacher == tuple(map(bytes, encoded(talker, pairs_of(rows)[0], "teacher")))


def encoded(talker: Path, row: Row, who: str) -> list[Any]:
    """Caption and reasoning as the model's own tokenizer reads them, with the end of the turn."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(talker)
    ids = [tokenizer(row[f"{who}_{part}"])["input_ids"] for part in ("caption", "cot")]
    return [torch.tensor([*part, tokenizer.eos_token_id]).numpy() for part in ids]


def test_loss_and_accuracy_are_those_of_the_pairs_before_the_step(
    talker: Path, teachers: DataSource, pairs: DataSource, tmp_path: Path, batches: list[Batch]
) -> None:
    finished = run(talker, teachers, tmp_path, pairs)
    captions, reasonings, losses = (
        finished.column(f"discriminator_{name}", "warmup")
        for name in ("accuracy_caption", "accuracy_reasoning", "loss")
    )
    for i, (_, scored) in enumerate(batches[:4]):
        gaps = torch.cat([s.teacher - s.students for s in scored.scores])
        assert gaps.shape == (4, 2)
        assert [captions[i], reasonings[i]] == pytest.approx((gaps > 0).double().mean(0).tolist())
        # Dropout of the head and the small regularisers are all that is between the two.
        expected = -logsigmoid(gaps).mean(0).sum().item()
        assert losses[i] == pytest.approx(expected, rel=0.1, abs=0.1)


def test_the_file_teaches_the_discriminator_to_tell_teacher_from_student(
    talker: Path, teachers: DataSource, pairs: DataSource, tmp_path: Path
) -> None:
    finished = run(talker, teachers, tmp_path, pairs, steps=16, batch_size=8)
    for name in ("caption", "reasoning"):
        assert finished.column(f"discriminator_accuracy_{name}", "warmup")[-1] == 1.0
    losses = finished.column("discriminator_loss", "warmup")
    assert losses[-1] < losses[0] / 2
    assert not finished.column("format_rate", "warmup"), "no response was sampled"


def test_lines_that_are_too_long_are_left_out_and_counted(
    talker: Path, teachers: DataSource, rows: list[Row], tmp_path: Path, batches: list[Batch]
) -> None:
    """By prompt, by teacher or by student."""
    mixed = pairs_of(rows)
    mixed[3] = with_long_prompt(mixed[3])
    mixed[6] = with_text(mixed[6], "student", answer_text(7, 10**40, 1))
    mixed[9] = with_text(mixed[9], "teacher", answer_text(7, 10**40, 1))
    data = write_rows(tmp_path / "mixed.parquet", mixed)
    finished = run(talker, teachers, tmp_path, data)
    assert sum(finished.column("dropped_samples", "warmup")) == 3
    assert sum(len(comparisons) for comparisons, _ in batches[:4]) == 13


def test_a_file_of_nothing_but_long_lines_is_bad_data(
    talker: Path, teachers: DataSource, rows: list[Row], tmp_path: Path
) -> None:
    long = [with_text(row, "student", answer_text(7, 10**40, 1)) for row in pairs_of(rows[:4])]
    data = write_rows(tmp_path / "long.parquet", long)
    with pytest.raises(DataError, match=r"long\.parquet row \d: .* exceed maxResponseTokens 40"):
        run(talker, teachers, tmp_path, data)
