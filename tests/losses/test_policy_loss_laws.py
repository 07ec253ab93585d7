"""Laws that tie the surrogates together, whatever the batch."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policy_loss_builders import (
    BATCH,
    DAPO,
    DR_GRPO,
    GRPO,
    GSPO,
    LIMIT,
    LOG_RATIO,
    OBJECTIVES,
    gradient_of,
    inputs_of,
    loss_of,
)
from prism_api.algorithms import PolicyObjective
from prism_trainer.losses.policy import ON_POLICY, policy_loss


@given(batch=st.lists(st.tuples(LOG_RATIO, st.floats(-3, 3)), min_size=1, max_size=5))
def test_gspo_equals_grpo_at_length_one_with_the_same_clips(
    batch: list[tuple[float, float]],
) -> None:
    """Up to ratios of e^10 and from e^-20 on, where the reference code cuts them differently."""
    log_ratios = [[max(-19.9, min(9.9, x))] for x, _ in batch]
    inputs = inputs_of(log_ratios, [a for _, a in batch])
    token = PolicyObjective("token", "token", 0.2, 0.3, 3.0)
    sequence = PolicyObjective("sequence", "sequence", 0.2, 0.3, 3.0)
    assert loss_of(inputs, sequence) == pytest.approx(loss_of(inputs, token), rel=1e-12)
    ours, theirs = gradient_of(inputs, sequence), gradient_of(inputs, token)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@given(batch=BATCH)
def test_the_gspo_gradient_is_that_of_the_geometric_mean_ratio(
    batch: list[tuple[list[float], float]],
) -> None:
    """TRL's form: one ratio per response, exp of the mean log-ratio, differentiated directly."""
    log_ratios = [[max(-2.0, min(2.0, x)) for x in r] for r, _ in batch]
    inputs = inputs_of(log_ratios, [a for _, a in batch])
    responses = (inputs.logprobs - inputs.old_logprobs).split([len(r) for r in log_ratios])
    ratio = torch.stack([response.mean() for response in responses]).exp()
    plain = -inputs.advantages * ratio
    clipped = -inputs.advantages * ratio.clamp(1 - GSPO.clip_low, 1 + GSPO.clip_high)
    (expected,) = torch.autograd.grad(torch.maximum(plain, clipped).mean(), inputs.logprobs)
    torch.testing.assert_close(gradient_of(inputs, GSPO), expected, rtol=1e-9, atol=1e-12)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    advantages=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
def test_dapo_and_grpo_coincide_at_ratio_one(lengths: list[int], advantages: list[float]) -> None:
    inputs = inputs_of([[0.0] * n for n in lengths], advantages[: len(lengths)])
    assert loss_of(inputs, DAPO) == loss_of(inputs, GRPO)
    assert torch.equal(gradient_of(inputs, DAPO), gradient_of(inputs, GRPO))


@pytest.mark.parametrize("objective", [*OBJECTIVES.values(), ON_POLICY], ids=[*OBJECTIVES, "align"])
def test_on_policy_gradients_are_those_of_reinforce(objective: PolicyObjective) -> None:
    lengths, advantages = [2, 5, 1], [1.5, -0.7, 0.2]
    inputs = inputs_of([[0.0] * n for n in lengths], advantages)
    pieces = [
        a * (p.mean() if objective.average == "sequence" else p.sum())
        for p, a in zip(inputs.logprobs.split(lengths), advantages, strict=True)
    ]
    count = {"token": sum(lengths), "sequence": 3, "length_limit": 3 * LIMIT}[objective.average]
    reinforce = -torch.stack(pieces).sum() / count
    (expected,) = torch.autograd.grad(reinforce, inputs.logprobs)
    torch.testing.assert_close(gradient_of(inputs, objective), expected, rtol=1e-12, atol=0)
    outputs = policy_loss(inputs, objective)
    assert outputs.clipped_tokens.item() == 0


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
@given(batch=BATCH)
def test_zero_advantages_give_no_loss_and_no_gradient(
    objective: PolicyObjective, batch: list[tuple[list[float], float]]
) -> None:
    inputs = inputs_of([r for r, _ in batch], [0.0] * len(batch))
    assert loss_of(inputs, objective) == 0
    assert not gradient_of(inputs, objective).any()


@given(batch=BATCH)
def test_dr_grpo_is_the_token_mean_times_the_mean_length_over_the_limit(
    batch: list[tuple[list[float], float]],
) -> None:
    inputs = inputs_of([r for r, _ in batch], [a for _, a in batch])
    token_mean = loss_of(inputs, replace(DR_GRPO, average="token"))
    mean_length = sum(len(r) for r, _ in batch) / len(batch)
    assert loss_of(inputs, DR_GRPO) == pytest.approx(token_mean * mean_length / LIMIT, rel=1e-9)


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
def test_an_empty_response_counts_in_means_over_responses_only(objective: PolicyObjective) -> None:
    """Nothing of it is trained, as in TRL and verl with the batch's own count."""
    with_empty = inputs_of([[0.1, -0.4], [], [0.3]], [1.0, 5.0, -0.5])
    without = inputs_of([[0.1, -0.4], [0.3]], [1.0, -0.5])
    share = 1.0 if objective.average == "token" else 2 / 3
    assert loss_of(with_empty, objective) == pytest.approx(share * loss_of(without, objective))
    ours, theirs = gradient_of(with_empty, objective), gradient_of(without, objective)
    torch.testing.assert_close(ours, share * theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
def test_a_batch_of_empty_responses_has_no_loss(objective: PolicyObjective) -> None:
    inputs = inputs_of([[], []], [1.0, -1.0], total_tokens=0.0)
    assert loss_of(inputs, objective) == 0.0
    assert gradient_of(inputs, objective).shape == (0,)


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
@given(batch=BATCH, weights=st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=20, max_size=20))
def test_a_correction_weighs_each_tokens_loss_and_no_count(
    objective: PolicyObjective, batch: list[tuple[list[float], float]], weights: list[float]
) -> None:
    log_ratios, advantages = [r for r, _ in batch], [a for _, a in batch]
    plain = inputs_of(log_ratios, advantages)
    chosen = torch.tensor(weights[: len(plain.logprobs)], dtype=torch.float64)
    corrected = replace(plain, correction=chosen)
    expected = chosen * gradient_of(plain, objective)
    torch.testing.assert_close(gradient_of(corrected, objective), expected, rtol=1e-12, atol=1e-300)
    ones = replace(plain, correction=torch.ones_like(chosen))
    assert loss_of(ones, objective) == loss_of(plain, objective)


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_log_ratios_of_hundreds_leave_loss_and_gradient_finite(
    objective: PolicyObjective, sign: float
) -> None:
    inputs = inputs_of([[500.0, -500.0], [-800.0], [800.0]], [sign, -sign, sign])
    assert math.isfinite(loss_of(inputs, objective))
    assert gradient_of(inputs, objective).isfinite().all()


def test_log_ratios_beyond_twenty_are_cut_and_carry_no_gradient() -> None:
    bad = replace(GRPO, dual_clip=0.0)
    inputs = inputs_of([[25.0], [19.0], [-25.0]], [-1.0, -1.0, 1.0])
    expected = (math.exp(20) + math.exp(19) - math.exp(-20)) / 3
    assert loss_of(inputs, bad) == pytest.approx(expected)
    gradient = gradient_of(inputs, bad)
    assert gradient.isfinite().all()
    assert gradient.tolist() == pytest.approx([0.0, math.exp(19) / 3, 0.0])


def test_sequence_ratios_are_cut_at_e_to_the_ten() -> None:
    inputs = inputs_of([[30.0, 10.0]], [-1.0])
    assert loss_of(inputs, GSPO) == pytest.approx(math.exp(10))
    assert gradient_of(inputs, GSPO).tolist() == [0.0, 0.0]


def test_token_mean_weighs_tokens_and_sequence_mean_responses() -> None:
    log_ratios, advantages = [[0.0], [0.0] * 9], [1.0, -1.0]
    by_token = loss_of(inputs_of(log_ratios, advantages), GRPO)
    by_sequence = loss_of(inputs_of(log_ratios, advantages), replace(GRPO, average="sequence"))
    assert by_token == pytest.approx((-1 + 9) / 10)
    assert by_sequence == pytest.approx(0.0)


@pytest.mark.parametrize("objective", list(OBJECTIVES.values()), ids=list(OBJECTIVES))
def test_parts_of_a_batch_add_up_to_the_whole(objective: PolicyObjective) -> None:
    log_ratios = [[0.1, -0.4], [0.3] * 5, [-0.1], [2.0, -2.0, 0.0]]
    advantages = [1.0, -0.5, 2.0, -1.0]
    whole = loss_of(inputs_of(log_ratios, advantages), objective)
    parts = [
        loss_of(inputs_of(log_ratios[a:b], advantages[a:b], 11.0, 4.0), objective)
        for a, b in ((0, 1), (1, 3), (3, 4))
    ]
    assert sum(parts) == pytest.approx(whole)
