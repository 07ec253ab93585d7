"""Scores of captions and reasoning: what they depend on, and above all what they do not."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen3VLMoeModel

from discriminator_builders import build_comparisons, build_discriminator, build_segments
from model_builders import model_inputs
from prism_api.optimization import Optimization
from prism_api.stages import Discriminator as Settings
from prism_trainer.discriminator.comparison import Comparison, chunks
from prism_trainer.discriminator.discriminator import Discriminator
from prism_trainer.losses.adversarial import PairScores

ROUTINGS = ("learned", "segment")
Routing = Any


@pytest.fixture(params=ROUTINGS)
def settings(request: pytest.FixtureRequest) -> Settings:
    return Settings(routing=request.param)


def assert_same(ours: Sequence[PairScores], theirs: Sequence[PairScores]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.teacher, b.teacher, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a.students, b.students, rtol=1e-4, atol=1e-4)


def test_scores_equal_those_of_transformers_mixture_read_at_the_last_token(dense: Any) -> None:
    network = build_discriminator(dense, Settings())
    config = copy.deepcopy(network.model.tower.config)
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "sdpa"
    theirs = Qwen3VLMoeModel(config).eval()
    theirs.load_state_dict(network.model.tower.state_dict())
    batch = build_comparisons()

    def score(comparison: Comparison, segment: Any) -> Tensor:
        theirs.rope_deltas = None
        hidden = theirs(**model_inputs(comparison.prompt, segment)).last_hidden_state
        value: Tensor = network.model.head(hidden[0, -1]).squeeze()
        return value

    with torch.no_grad():
        expected = [
            PairScores(
                torch.stack([score(c, s) for s in c.teacher]),
                torch.tensor([[score(c, s) for s in pair] for pair in c.students]).view(-1, 2),
            )
            for c in batch
        ]
    assert_same(network.score(batch).scores, expected)
    assert torch.cat([e.students for e in expected]).std() > 0.1, "scores that could not differ"


@pytest.mark.parametrize("max_tokens", [150, 60, 1], ids="packs of {}".format)
def test_scores_do_not_depend_on_packs_or_on_dividing_a_comparison(
    dense: Any, settings: Settings, max_tokens: int
) -> None:
    batch = build_comparisons()
    parts = [len(chunks(c, max_tokens)) for c in batch]
    assert (max(parts) > 1) == (max_tokens < 150)
    whole = build_discriminator(dense, settings).score(batch)
    divided = build_discriminator(dense, settings, max_tokens).score(batch)
    assert_same(divided.scores, whole.scores)


def test_scores_do_not_depend_on_the_other_students_or_prompts(
    dense: Any, settings: Settings
) -> None:
    network = build_discriminator(dense, settings)
    batch = build_comparisons()
    whole = network.score(batch).scores
    for comparison, scores in zip(batch, whole, strict=True):
        for i, student in enumerate(comparison.students):
            (alone,) = network.score([replace(comparison, students=(student,))]).scores
            assert_same([alone], [PairScores(scores.teacher, scores.students[i : i + 1])])


def test_the_reasoning_score_does_not_see_the_caption_nor_the_other_way_round(
    dense: Any, settings: Settings
) -> None:
    network = build_discriminator(dense, settings)
    comparison = build_comparisons()[0]
    caption, reasoning = build_segments(np.random.default_rng(9))
    (first_caption, first_reasoning), *others = comparison.students

    def scores(student: Any) -> list[float]:
        changed = replace(comparison, students=(student, *others))
        values: list[float] = network.score([changed]).scores[0].students[0].tolist()
        return values

    before = scores((first_caption, first_reasoning))
    other_caption = scores((caption, first_reasoning))
    other_reasoning = scores((first_caption, reasoning))
    assert other_caption[1] == pytest.approx(before[1], abs=1e-5)
    assert other_reasoning[0] == pytest.approx(before[0], abs=1e-5)
    assert abs(other_caption[0] - before[0]) > 1e-2
    assert abs(other_reasoning[1] - before[1]) > 1e-2


def test_teacher_and_student_with_the_same_text_get_the_same_score(
    dense: Any, settings: Settings
) -> None:
    comparison = build_comparisons()[2]
    twin = replace(comparison, students=(comparison.students[0], comparison.teacher))
    (scores,) = build_discriminator(dense, settings).score([twin]).scores
    torch.testing.assert_close(scores.students[1], scores.teacher, rtol=0, atol=1e-5)


def test_the_picture_decides_too(dense: Any, settings: Settings) -> None:
    comparison = build_comparisons()[0]
    pixels = comparison.prompt.pixel_values
    assert pixels is not None
    blind = replace(comparison, prompt=replace(comparison.prompt, pixel_values=-pixels))
    network = build_discriminator(dense, settings)
    seen, unseen = (network.score([c]).scores[0].teacher for c in (comparison, blind))
    assert (seen - unseen).abs().min() > 1e-3


def trained(network: Discriminator, batch: Sequence[Comparison], step: int = 0) -> list[Tensor]:
    """Weights after one update on the batch."""
    optimization = Optimization(learning_rate=1e-2)
    network.start_training(optimization, 10)
    network.train_on(batch, network.score(batch), step)
    return [p.detach() for p in network.model.parameters()]


def equal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_dropout_is_keyed_by_its_seed_and_nothing_else(dense: Any) -> None:
    settings, batch = Settings(head_dropout=0.5), build_comparisons()
    first = trained(build_discriminator(dense, settings), batch)
    torch.manual_seed(123)
    torch.rand(10)
    assert equal(first, trained(build_discriminator(dense, settings), batch))
    reseeded = [replace(c, dropout_seed=c.dropout_seed + 100) for c in batch]
    assert not equal(first, trained(build_discriminator(dense, settings), reseeded))


def test_dropout_keeps_the_mean_of_a_score(dense: Any) -> None:
    """Inverted dropout: the mean over many masks is the score without one."""
    network = build_discriminator(dense, Settings(head_dropout=0.25))
    members = [replace(build_comparisons()[0], dropout_seed=seed) for seed in range(2000)]
    mask = network._dropout_mask(members, 32)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert mask.mean().item() == pytest.approx(1.0, abs=0.01)


def test_scoring_has_no_dropout(dense: Any) -> None:
    batch = build_comparisons()
    with_dropout = build_discriminator(dense, Settings(head_dropout=0.5)).score(batch)
    without = build_discriminator(dense, Settings(head_dropout=0.0)).score(batch)
    assert_same(with_dropout.scores, without.scores)


def test_training_opens_the_gap_between_teacher_and_students(
    dense: Any, settings: Settings
) -> None:
    network, batch = build_discriminator(dense, settings), build_comparisons()
    optimization = Optimization(learning_rate=3e-3)
    network.start_training(optimization, 10)
    losses = [network.train_on(batch, network.score(batch), s).loss for s in range(8)]
    gaps = torch.cat([s.teacher - s.students for s in network.score(batch).scores])
    assert losses[-1] < losses[0] / 2
    assert (gaps > 0).double().mean() > 0.9


def test_a_batch_without_any_student_lifts_the_teachers(dense: Any, settings: Settings) -> None:
    batch = [replace(c, students=()) for c in build_comparisons()]
    network = build_discriminator(dense, settings)
    before = torch.stack([s.teacher for s in network.score(batch).scores]).mean()
    trained(network, batch)
    after = torch.stack([s.teacher for s in network.score(batch).scores]).mean()
    assert after > before


def test_the_load_balance_reaches_the_routers(dense: Any) -> None:
    """In the reference code re-entrant checkpointing cuts this gradient off."""
    gradients = []
    for coefficient in (0.0, 1.0):
        settings = Settings(load_balance_coef=coefficient, head_dropout=0.0)
        network = build_discriminator(dense, settings)
        trained(network, build_comparisons())
        layers = network.model.tower.language_model.layers
        gradients.append(torch.cat([layer.mlp.gate.weight.grad for layer in layers]).clone())
    assert (gradients[0] - gradients[1]).norm() > 1e-3


def test_training_on_balance_alone_evens_the_load(dense: Any) -> None:
    settings = Settings(load_balance_coef=100.0, head_dropout=0.0, score_reg_coef=0.0)
    network, batch = build_discriminator(dense, settings), build_comparisons()
    optimization = Optimization(learning_rate=1e-2)
    network.start_training(optimization, 30)
    spread = []
    for step in range(30):
        scored = network.score(batch)
        spread.append(float(scored.expert_shares.std(dim=1).mean()))
        network.train_on(batch, scored, step)
    assert min(spread[-5:]) < 0.7 * spread[0]
