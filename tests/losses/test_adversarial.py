"""The discriminator's losses against a scalar transcription of prism-method.md 4.5."""

import math
import statistics
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prism_api.stages import Discriminator
from prism_trainer.losses.adversarial import PairScores, load_balance_loss, pair_loss

Pair = tuple[float, float]
Prompt = tuple[Pair, list[Pair]]
"""Teacher's scores and its students', each caption and reasoning."""

SETTINGS = Discriminator()
SCORE = st.floats(-15, 15)
SIDES = st.tuples(SCORE, SCORE)
PROMPTS = st.lists(st.tuples(SIDES, st.lists(SIDES, max_size=4)), min_size=1, max_size=4)


def scores_of(prompt: Prompt) -> PairScores:
    teacher, students = prompt
    return PairScores(
        torch.tensor(teacher, dtype=torch.float64),
        torch.tensor(students, dtype=torch.float64).reshape(-1, 2),
    )


def batch_loss(prompts: Sequence[Prompt], settings: Discriminator = SETTINGS) -> float:
    pairs = float(sum(len(students) for _, students in prompts))
    losses = [pair_loss(scores_of(p), pairs, float(len(prompts)), settings) for p in prompts]
    return torch.stack(losses).sum().item()


def transcribed_loss(prompts: Sequence[Prompt], settings: Discriminator = SETTINGS) -> float:
    """g (l_cap + l_cot) + (1 - g) L_fb + coef R, every pair with its own copy of the teacher."""

    def minus_log_sigmoid(x: float) -> float:
        return math.log1p(math.exp(-x)) if x > 0 else -x + math.log1p(math.exp(x))

    def clip(score: float) -> float:
        c = settings.score_clip
        return max(-c, min(c, score)) if c else score

    pairs = [(teacher, student) for teacher, students in prompts for student in students]
    loss = 0.0
    for k in range(2):
        if not pairs:
            teachers = [clip(teacher[k]) for teacher, _ in prompts]
            # The reference takes the sigmoid of the mean; ours the mean of the terms, which does
            # not depend on how the batch is divided.
            loss += settings.fallback_coef * statistics.mean(map(minus_log_sigmoid, teachers))
            continue
        gaps = [clip(t[k]) - clip(s[k]) for t, s in pairs]
        loss += statistics.mean(map(minus_log_sigmoid, gaps))
        columns = zip(*pairs, strict=True)
        squares = [statistics.mean(clip(side[k]) ** 2 for side in sides) for sides in columns]
        loss += settings.score_reg_coef * sum(squares) / 4
    return loss


@given(prompts=PROMPTS)
def test_pair_losses_equal_a_scalar_transcription(prompts: list[Prompt]) -> None:
    assert batch_loss(prompts) == pytest.approx(transcribed_loss(prompts), rel=1e-9)


@given(prompts=PROMPTS)
def test_pair_losses_without_clip_or_regulariser_equal_it_too(prompts: list[Prompt]) -> None:
    settings = Discriminator(score_clip=0.0, score_reg_coef=0.0)
    expected = transcribed_loss(prompts, settings)
    assert batch_loss(prompts, settings) == pytest.approx(expected, rel=1e-9)


def test_one_pair_is_as_computed_by_hand() -> None:
    # -ln sigmoid(1) - ln sigmoid(2) + 0.001 (2^2 + 1^2 + 1^2 + (-1)^2) / 4
    expected = 0.31326169 + 0.12692801 + 0.00175
    assert batch_loss([((2.0, 1.0), [(1.0, -1.0)])]) == pytest.approx(expected, rel=1e-7)


def test_equal_scores_cost_one_bit_per_component() -> None:
    settings = Discriminator(score_reg_coef=0.0)
    assert batch_loss([((3.0, -3.0), [(3.0, -3.0)] * 4)], settings) == pytest.approx(
        2 * math.log(2)
    )


def test_the_fallback_keeps_the_teachers_up_when_no_student_has_the_format() -> None:
    prompts: list[Prompt] = [((1.0, -1.0), []), ((0.0, 2.0), [])]
    terms = [math.log1p(math.exp(-x)) for x in (1.0, -1.0, 0.0, 2.0)]
    assert batch_loss(prompts) == pytest.approx(0.01 * sum(terms) / 2)
    teacher = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    scores = PairScores(teacher, torch.empty(0, 2, dtype=torch.float64))
    pair_loss(scores, 0.0, 1.0, SETTINGS).backward()
    assert teacher.grad is not None
    assert teacher.grad.tolist() == pytest.approx([-0.005, -0.005])


def test_a_prompt_without_students_adds_nothing_next_to_one_that_has_some() -> None:
    pair: Prompt = ((1.0, 0.5), [(0.0, 0.0)])
    assert batch_loss([pair, ((9.0, 9.0), [])]) == pytest.approx(batch_loss([pair]))


@pytest.mark.parametrize("clip", [10.0, 2.0])
def test_scores_beyond_the_clip_have_no_gradient(clip: float) -> None:
    teacher = torch.tensor([clip + 1, 1.0], requires_grad=True)
    students = torch.tensor([[0.5, -clip - 3]], requires_grad=True)
    settings = Discriminator(score_clip=clip)
    pair_loss(PairScores(teacher, students), 1.0, 1.0, settings).backward()
    assert teacher.grad is not None
    assert students.grad is not None
    assert [bool(g) for g in teacher.grad] == [False, True]
    assert [bool(g) for g in students.grad[0]] == [True, False]


def test_the_loss_pushes_teachers_up_and_students_down() -> None:
    teacher, students = torch.zeros(2, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    pair_loss(PairScores(teacher, students), 3.0, 1.0, SETTINGS).backward()
    assert teacher.grad is not None
    assert students.grad is not None
    assert teacher.grad.tolist() == pytest.approx([-0.5, -0.5])
    assert students.grad.flatten().tolist() == pytest.approx([1 / 6] * 6)


def one_hot(choices: Sequence[Sequence[int]], experts: int) -> torch.Tensor:
    counts = torch.bincount(torch.tensor(choices).flatten(), minlength=experts)
    return counts.double() / len(choices)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_a_balanced_load_costs_the_number_of_choices(top_k: int) -> None:
    experts, tokens = 4, 12
    choices = [[(t + k) % experts for k in range(top_k)] for t in range(tokens)]
    probabilities = torch.full((tokens, experts), 1 / experts, dtype=torch.float64)
    loss = load_balance_loss(probabilities, one_hot(choices, experts), tokens)
    assert loss.item() == pytest.approx(top_k)


def test_a_collapsed_load_costs_more_and_is_pushed_apart() -> None:
    experts, tokens = 4, 8
    logits = torch.zeros(tokens, experts, dtype=torch.float64)
    logits[:, 0] = 3.0
    logits.requires_grad_()
    loss = load_balance_loss(logits.softmax(-1), one_hot([[0, 1]] * tokens, experts), tokens)
    loss.backward()
    assert loss.item() > 2.5
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all(), "less of the crowded expert"
    assert (logits.grad[:, 2:] < 0).all(), "more of the idle ones"


def test_the_balance_equals_the_switch_formula_over_a_divided_batch() -> None:
    """E sum_{k,e} f_ke P_e; f: share of tokens whose k-th choice is e, P: mean probability."""
    torch.manual_seed(0)
    experts, tokens, top_k = 4, 30, 2
    probabilities = torch.rand(tokens, experts, dtype=torch.float64).softmax(-1)
    choices = probabilities.topk(top_k).indices
    expected = 0.0
    for k in range(top_k):
        for e in range(experts):
            share = (choices[:, k] == e).double().mean()
            expected += experts * float(share * probabilities[:, e].mean())
    shares = one_hot(choices.tolist(), experts)
    parts = [load_balance_loss(part, shares, tokens).item() for part in probabilities.split(13)]
    assert sum(parts) == pytest.approx(expected)
