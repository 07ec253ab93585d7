"""Captions and reasoning of any length: whom they may choose, and where they are read."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from discriminator_builders import build_discriminator
from model_builders import WORDS, build_prompt
from prism_api.stages import Discriminator as Settings
from prism_trainer.discriminator.comparison import Comparison, Segments
from prism_trainer.discriminator.discriminator import Discriminator
from prism_trainer.discriminator.routing import CAPTION, REASONING, allowed_experts
from prism_trainer.engine.packing import build_pack
from prism_trainer.engine.policy import hidden_states

END = WORDS - 1
"""Ends every segment here, and stands nowhere else."""
PROMPT = -1

LENGTHS = st.tuples(st.integers(0, 30), st.integers(0, 30))
LONG = st.tuples(st.integers(0, 1200), st.integers(0, 1200))


@pytest.fixture(scope="module")
def networks(dense: Any) -> dict[str, Discriminator]:
    return {r: build_discriminator(dense, Settings(routing=r)) for r in ("learned", "segment")}


def text(rng: np.random.Generator, lengths: tuple[int, int]) -> Segments:
    """Words, of which there may be none, and the end of the turn."""
    caption, reasoning = (np.append(rng.integers(0, END, n), END) for n in lengths)
    return caption, reasoning


def a_comparison(
    seed: int, teacher: tuple[int, int], students: list[tuple[int, int]]
) -> Comparison:
    rng = np.random.default_rng(seed)
    prompt = build_prompt(rng, [(1, 4, 4)] if seed % 2 else [], 3 + seed % 5)
    return Comparison(
        prompt, text(rng, teacher), tuple(text(rng, lengths) for lengths in students), seed
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 99), teacher=LENGTHS, students=st.lists(LENGTHS, min_size=1, max_size=3))
def test_no_token_of_a_segment_chooses_beyond_its_half_however_long_it_is(
    networks: dict[str, Discriminator],
    seed: int,
    teacher: tuple[int, int],
    students: list[tuple[int, int]],
) -> None:
    network = networks["segment"]
    batch = [a_comparison(seed, teacher, students), a_comparison(seed + 1, students[0], [teacher])]
    pack = build_pack([comparison.group for comparison in batch])
    network.model.routing.start(allowed_experts(pack.token_classes, network.settings))
    with torch.no_grad():
        hidden_states(network.model.tower, pack)
    # Whose token each one is, by hand: a group's prompt, then its different texts as they occur.
    expected: list[int] = []
    for comparison in batch:
        expected += [PROMPT] * len(comparison.prompt.token_ids)
        seen = set()
        for pair in (comparison.teacher, *comparison.students):
            for kind, segment in zip((CAPTION, REASONING), pair, strict=True):
                if (kind, segment.tobytes()) not in seen:
                    seen.add((kind, segment.tobytes()))
                    expected += [kind] * len(segment)
    assert pack.token_classes.tolist() == expected
    halves = {PROMPT: {0, 1, 2, 3}, CAPTION: {0, 1}, REASONING: {2, 3}}
    for choices in network.model.routing.choices.values():
        for kind, chosen in zip(expected, choices.tolist(), strict=True):
            assert set(chosen) <= halves[kind]


@settings(deadline=None, max_examples=50)
@given(
    classes=st.lists(st.sampled_from([PROMPT, CAPTION, REASONING]), min_size=1, max_size=40),
    half=st.integers(1, 8),
)
def test_the_halves_share_no_expert_and_leave_none_out(classes: list[int], half: int) -> None:
    rules = Settings(routing="segment", num_experts=2 * half, experts_per_token=1)
    allowed = allowed_experts(torch.tensor(classes), rules)
    assert allowed is not None
    for kind, row in zip(classes, allowed.tolist(), strict=True):
        first, second = row[:half], row[half:]
        assert all(first) == (kind != REASONING)
        assert any(first) == (kind != REASONING)
        assert all(second) == (kind != CAPTION)
        assert any(second) == (kind != CAPTION)


@pytest.mark.parametrize("routing", ["learned", "segment"])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), teacher=LONG, student=LONG)
def test_teacher_and_student_are_read_alike_at_their_ends_however_long_they_are(
    networks: dict[str, Discriminator],
    routing: str,
    seed: int,
    teacher: tuple[int, int],
    student: tuple[int, int],
) -> None:
    """Exchange the two, and their scores are exchanged; the reference reads teachers elsewhere, and
    their first 512 tokens only."""
    network = networks[routing]
    one = a_comparison(seed, teacher, [student])
    other = replace(one, teacher=one.students[0], students=(one.teacher,))
    for comparison in (one, other):
        pack = build_pack([comparison.group])
        assert pack.input_ids[0, pack.last_index].tolist() == [END] * len(pack.last_index)
    ours, exchanged = network.score([one, other]).scores
    torch.testing.assert_close(exchanged.students[0], ours.teacher, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exchanged.teacher, ours.students[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("routing", ["learned", "segment"])
@pytest.mark.parametrize("length", [511, 512, 513, 1500])
def test_the_last_word_of_a_long_text_counts(
    networks: dict[str, Discriminator], routing: str, length: int
) -> None:
    comparison = a_comparison(1, (length, length), [(5, 5)])
    changed = [segment.copy() for segment in comparison.teacher]
    for segment in changed:
        segment[-2] = (segment[-2] + 1) % END
    other = replace(comparison, teacher=(changed[0], changed[1]))
    ours, theirs = networks[routing].score([comparison, other]).scores
    assert (ours.teacher - theirs.teacher).abs().min() > 1e-4
    torch.testing.assert_close(ours.students, theirs.students, rtol=1e-4, atol=1e-4)
