"""Texts that occur several times in a comparison: read once, scored alike, weighed as often as
they occur."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextRMSNorm

from discriminator_builders import build_comparisons, build_discriminator
from prism_api.optimization import Optimization
from prism_api.stages import Discriminator as Settings
from prism_trainer.advantages import alignment_advantages
from prism_trainer.discriminator.comparison import Comparison, chunks
from prism_trainer.discriminator.discriminator import Discriminator, ScoredBatch
from prism_trainer.engine.packing import Group

FORMS: Any = ("per_component", "mixed")
ONE_PACK = 10_000


def with_repeats(comparison: Comparison) -> Comparison:
    """Students that repeat each other and the teacher, whole or in one of the two segments."""
    (caption, reasoning), *others = comparison.students
    teacher = comparison.teacher
    students = (
        (caption, reasoning),
        teacher,
        (caption.copy(), reasoning.copy()),
        (caption, teacher[1]),
        *others,
        (teacher[0].copy(), reasoning),
        (caption, reasoning),
    )
    return replace(comparison, students=students)


def repeating() -> list[Comparison]:
    return [with_repeats(c) if c.students else c for c in build_comparisons()]


@pytest.fixture
def reading_all(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, every occurrence of a text counts as a text of its own."""

    def numbers(comparison: Comparison) -> Any:
        return np.arange(2 * (1 + len(comparison.students))).reshape(-1, 2)

    return lambda: monkeypatch.setattr(Comparison, "text_numbers", property(numbers))


def texts_of(group: Group) -> list[tuple[int, bytes]]:
    pairs = zip(group.classes, group.continuations, strict=True)
    return [(kind, text.tobytes()) for kind, text in pairs]


def test_every_text_is_read_once(reading_all: Callable[[], None]) -> None:
    once = texts_of(repeating()[0].group)
    reading_all()
    every = texts_of(repeating()[0].group)
    assert set(once) == set(every)
    assert len(once) == len(set(every)) < len(every)


@pytest.mark.parametrize("max_tokens", [ONE_PACK, 60, 1], ids="packs of {}".format)
@pytest.mark.parametrize("routing", ["learned", "segment"])
def test_equal_texts_have_exactly_the_same_score(dense: Any, routing: Any, max_tokens: int) -> None:
    """Also where a comparison is divided: packs of other sizes give scores of other rounding."""
    network = build_discriminator(dense, Settings(routing=routing), max_tokens)
    batch = repeating()
    assert (max(len(chunks(c, max_tokens)) for c in batch) > 1) == (max_tokens < ONE_PACK)
    for comparison, scores in zip(batch, network.score(batch).scores, strict=True):
        rows = [scores.teacher, *scores.students]
        pairs = [comparison.teacher, *comparison.students]
        seen: dict[tuple[int, bytes], float] = {}
        for row, pair in zip(rows, pairs, strict=True):
            for k, segment in enumerate(pair):
                value = float(row[k])
                assert seen.setdefault((k, segment.tobytes()), value) == value
        assert len(set(seen.values())) == len(seen), "other texts have other scores"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("max_tokens", [ONE_PACK, 1], ids="packs of {}".format)
def test_a_group_of_equal_responses_has_exactly_no_advantage(
    dense: Any, max_tokens: int, form: Any
) -> None:
    comparison = build_comparisons()[0]
    for count in (2, 3, 7):
        alike = replace(comparison, students=(comparison.students[0],) * count)
        network = build_discriminator(dense, Settings(), max_tokens)
        (scores,) = network.score([alike]).scores
        table = scores.students.double()[None]
        valid = torch.ones(1, count, dtype=torch.bool)
        advantages = alignment_advantages(table, valid, (0.3, 0.7), 1.5, form)
        assert advantages.tolist() == [[0.0] * count]


def normalised(norm: Any, hidden: Tensor) -> Tensor:
    """transformers' RMSNorm without its step down to float32."""
    scale = (hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    result: Tensor = norm.weight * hidden * scale
    return result


def double_network(dense: Any, settings: Settings) -> Discriminator:
    network = build_discriminator(dense, settings)
    network.model.double()
    network.model.tower.set_experts_implementation("eager")  # the grouped kernel has no float64
    return network


def played(network: Discriminator, batch: Sequence[Comparison]) -> tuple[Any, ScoredBatch, Any]:
    """Loss, scores and gradients of one update, in float64."""
    torch.set_default_dtype(torch.float64)  # of the gradients' buffer
    try:
        optimization = Optimization(learning_rate=1e-6, grad_clip=0.0)
        network.start_training(optimization, 1)
        scored = network.score(batch)
        report = network.train_on(batch, scored, 0)
    finally:
        torch.set_default_dtype(torch.float32)
    named = network.model.named_parameters()
    return report.loss, scored, {n: p.grad.clone() for n, p in named if p.grad is not None}


@pytest.mark.parametrize("routing", ["learned", "segment"])
def test_reading_texts_once_gives_the_losses_and_gradients_of_reading_all(
    dense: Any,
    routing: Any,
    reading_all: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With dropout and load balance: every response keeps its weight and its own mask."""
    monkeypatch.setattr(Qwen3VLMoeTextRMSNorm, "forward", normalised)
    settings = Settings(routing=routing, load_balance_coef=0.5, head_dropout=0.3)
    loss, scored, gradients = played(double_network(dense, settings), repeating())
    reading_all()
    expected = played(double_network(dense, settings), repeating())
    assert loss == pytest.approx(expected[0], rel=1e-10)
    assert scored.total_tokens == expected[1].total_tokens
    torch.testing.assert_close(scored.expert_shares, expected[1].expert_shares, rtol=0, atol=1e-10)
    for ours, theirs in zip(scored.scores, expected[1].scores, strict=True):
        torch.testing.assert_close(ours.teacher, theirs.teacher, rtol=0, atol=1e-10)
        torch.testing.assert_close(ours.students, theirs.students, rtol=0, atol=1e-10)
    assert gradients.keys() == expected[2].keys()
    for name, gradient in gradients.items():
        difference = float((gradient - expected[2][name]).norm())
        assert difference < 1e-10, name
    assert max(float(g.norm()) for g in gradients.values()) > 1e-2
