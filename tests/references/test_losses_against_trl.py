"""Our losses, advantages and rollout corrections against TRL's own code in float64.

Where the two mean different things (trainer-peers.md 4.4) a test says what each computes and by how
much they differ. verl is not installed: its formulas are transcribed where it takes a third way.
"""

import importlib
import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from padded_batches import (
    LIMIT,
    PaddedBatch,
    assert_same,
    batches,
    our_loss,
    padded_batch,
    with_gradient,
)
from prism_api.algorithms import PolicyObjective
from prism_api.reinforcement import RolloutCorrection
from prism_trainer.advantages import group_centre, group_normalise
from prism_trainer.losses.correction import rollout_weights
from prism_trainer.losses.policy import kl_penalty, policy_loss, token_weights

pytestmark = [
    pytest.mark.references,
    # TRL warns of its own imports and of a vLLM newer than it knows.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def trl() -> Any:
    """TRL's code; a failure, not a skip, where it is not installed."""
    return importlib.import_module("trl_grpo")


GRPO = PolicyObjective("token", "token", 0.2, 0.2)
DAPO = PolicyObjective("token", "token", 0.2, 0.28)
SEQUENCE_MEAN = PolicyObjective("token", "sequence", 0.2, 0.2)
GSPO = PolicyObjective("sequence", "sequence", 3e-4, 4e-4)
DR_GRPO = PolicyObjective("token", "length_limit", 0.2, 0.2)
CISPO = PolicyObjective("token", "token", 1.0, 4.0, surrogate="cispo")
GSPO_IN_TRL = {"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}
PAIRS: dict[str, tuple[PolicyObjective, str, dict[str, Any]]] = {
    "grpo = bnpo": (GRPO, "bnpo", {}),
    "dapo": (DAPO, "dapo", {"epsilon_high": 0.28}),
    "grpo as published, sequence mean = grpo": (SEQUENCE_MEAN, "grpo", {}),
    "gspo": (GSPO, "grpo", GSPO_IN_TRL),
    "dr-grpo": (DR_GRPO, "dr_grpo", {}),
    "cispo": (CISPO, "cispo", {"epsilon_high": 5.0}),
}
"""Without dual clip, which TRL does not have."""


@pytest.mark.parametrize("pair", PAIRS.values(), ids=list(PAIRS))
@given(batch=batches())
def test_losses_are_trls(
    trl: Any, pair: tuple[PolicyObjective, str, dict[str, Any]], batch: PaddedBatch
) -> None:
    objective, loss_type, settings = pair
    assert_same(our_loss(batch, objective), trl.trl_loss(batch, loss_type, **settings))


@pytest.mark.parametrize("pair", PAIRS.values(), ids=list(PAIRS))
def test_clips_act_in_what_is_compared(
    pair: tuple[PolicyObjective, str, dict[str, Any]],
) -> None:
    batch = padded_batch(3, [5, 9, 1, 7], spread=4.0)
    assert policy_loss(batch.inputs(), pair[0]).clipped_tokens > 0


@pytest.mark.parametrize("pair", PAIRS.values(), ids=list(PAIRS))
def test_an_all_masked_row_counts_in_means_over_responses_as_in_trl(
    trl: Any, pair: tuple[PolicyObjective, str, dict[str, Any]]
) -> None:
    objective, loss_type, settings = pair
    batch = padded_batch(5, [3, 0, 4], spread=0.5)
    assert_same(our_loss(batch, objective), trl.trl_loss(batch, loss_type, **settings))


def test_verl_leaves_all_masked_rows_out_of_its_mean_over_responses(trl: Any) -> None:
    """When nobody tells it how many there are: 2 where TRL and we divide by 3."""
    batch = padded_batch(5, [3, 0, 4], spread=0.5)
    verl = our_loss(batch, SEQUENCE_MEAN, total_responses=2.0)
    theirs = trl.trl_loss(batch, "grpo")
    assert_same((verl[0] * 2 / 3, verl[1] * 2 / 3), theirs)


@given(batch=batches(), coefficient=st.floats(0.01, 1))
def test_the_k3_penalty_is_trls(trl: Any, batch: PaddedBatch, coefficient: float) -> None:
    """Where neither cuts: log-ratios within 20 and penalties below 10."""
    assume(float((kl_penalty(batch.logprobs, batch.reference) * batch.mask).max()) < 10)
    for objective, loss_type, settings in PAIRS.values():
        ours = with_penalty(batch, objective, coefficient)
        assert_same(ours, trl.trl_loss(batch, loss_type, beta=coefficient, **settings))


def with_penalty(
    batch: PaddedBatch, objective: PolicyObjective, coefficient: float
) -> tuple[Tensor, Tensor]:
    """As `PolicyUpdate` adds it."""
    inputs = batch.inputs()
    penalty = kl_penalty(inputs.logprobs, batch.flat(batch.reference))
    weighted = (penalty * token_weights(inputs, objective)).sum()
    return with_gradient(policy_loss(inputs, objective).loss + coefficient * weighted, batch)


def test_a_penalty_beyond_ten_is_cut_as_in_verl_and_not_in_trl(trl: Any) -> None:
    batch = padded_batch(0, [2], spread=0.0, advantages=[0.0])
    far = PaddedBatch(
        **{**vars(batch), "reference": batch.old + torch.tensor([[math.log(100.0), 0.5]])}
    )
    ours, _ = with_penalty(far, GRPO, 1.0)
    theirs, _ = trl.trl_loss(far, "bnpo", beta=1.0)
    both = math.exp(0.5) - 1.5
    assert ours.item() == pytest.approx((10 + both) / 2)
    assert theirs.item() == pytest.approx((100 - math.log(100) - 1 + both) / 2)


Level = Literal["token", "sequence"]
Mode = Literal["clamp", "mask"]
MODES: dict[Mode, str] = {"clamp": "truncate", "mask": "mask"}


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", list(MODES))
@given(batch=batches(), low=st.sampled_from([None, 0.0, 0.3]), high=st.floats(1, 5))
def test_rollout_corrections_are_trls(
    trl: Any, level: Level, mode: Mode, batch: PaddedBatch, low: float | None, high: float
) -> None:
    correction = RolloutCorrection(level=level, mode=mode, min_weight=low or 0, max_weight=high)
    gap = batch.flat(batch.old - batch.rollout)
    weights, _ = rollout_weights(gap, batch.response_index, len(batch.lengths), correction)
    scores = trl.trl_scores(
        torch.zeros(1, len(batch.lengths), dtype=torch.float64),
        batch,
        mode=f"{level}_{MODES[mode]}",
        clip_min=low,
        clip_max=high,
    )
    width = int(batch.lengths.max())
    padded = scores["importance_sampling_ratio"].expand(-1, width)
    expected = padded[batch.mask[:, :width].bool()]
    torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-9)
    given = torch.nn.functional.pad(padded, (0, batch.mask.shape[1] - width))
    for objective, loss_type, settings in PAIRS.values():
        ours: tuple[Tensor, ...] = our_loss(batch, objective, correction=weights)
        theirs: tuple[Tensor, ...] = trl.trl_loss(batch, loss_type, weights=given, **settings)
        if objective is GSPO and level == "token":
            # Another gradient, see below.
            ours, theirs = ours[:1], theirs[:1]
        assert_same(ours, theirs)


@given(batch=batches())
def test_tokens_weights_of_a_sequence_ratio_stay_with_their_tokens_and_trl_spreads_them(
    trl: Any, batch: PaddedBatch
) -> None:
    """GSPO with token weights. Ours (verl's form too) multiplies each token's gradient by its own
    weight; TRL has one ratio per response, whose gradient is multiplied by the mean weight."""
    weights = (batch.old - batch.rollout).exp().clamp(max=2)
    (our_value, ours), (their_value, theirs) = (
        our_loss(batch, GSPO, correction=batch.flat(weights)),
        trl.trl_loss(batch, "grpo", weights=weights, **GSPO_IN_TRL),
    )
    torch.testing.assert_close(our_value, their_value, rtol=1e-9, atol=1e-9)
    plain = our_loss(batch, GSPO)[1]
    mean = (weights * batch.mask).sum(1, keepdim=True) / batch.lengths[:, None]
    torch.testing.assert_close(ours, plain * weights, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(theirs, plain * mean, rtol=1e-9, atol=1e-9)


def test_trl_corrects_by_masking_whole_responses_by_default_and_we_by_clamping_tokens(
    trl: Any,
) -> None:
    """One token that the trainer thinks four times likelier: we halve its weight, TRL drops its
    response."""
    batch = padded_batch(0, [3], spread=0.0)
    rollout = batch.old - torch.tensor([[math.log(4.0), 0.0, 0.0]])
    off = PaddedBatch(**{**vars(batch), "rollout": rollout})
    gap = off.flat(off.old - off.rollout)
    weights, _ = rollout_weights(gap, off.response_index, 1, RolloutCorrection())
    assert weights.tolist() == pytest.approx([2.0, 1.0, 1.0])
    theirs = trl.trl_scores(torch.zeros(1, 1, dtype=torch.float64), off)
    assert theirs["importance_sampling_ratio"].tolist() == [[0.0]]


REWARDS = st.lists(st.floats(-2, 2), min_size=2, max_size=8)


@given(rewards=REWARDS)
def test_advantages_are_trls_but_for_the_number_added_to_the_deviation(
    trl: Any, rewards: list[float]
) -> None:
    """1e-6 here and in verl, 1e-4 in TRL: a factor that is known exactly."""
    table = torch.tensor([rewards, [0.5 * r for r in rewards]], dtype=torch.float64)
    theirs = trl.trl_scores(table)["advantages"].view_as(table)
    deviation = table.std(dim=1, keepdim=True)
    expected = theirs * (deviation + 1e-4) / (deviation + 1e-6)
    torch.testing.assert_close(group_normalise(table), expected, rtol=1e-9, atol=1e-9)


def test_the_number_added_to_the_deviation_shows_where_rewards_are_almost_equal(trl: Any) -> None:
    table = torch.tensor([[0.0, 1e-4, -1e-4]], dtype=torch.float64)
    theirs = trl.trl_scores(table)["advantages"]
    assert group_normalise(table)[0].tolist() == pytest.approx([0, 1 / 1.01, -1 / 1.01])
    assert theirs.tolist() == pytest.approx([0, 0.5, -0.5])


@given(rewards=REWARDS)
def test_advantages_of_dr_grpo_are_trls_without_scaling(trl: Any, rewards: list[float]) -> None:
    table = torch.tensor([rewards], dtype=torch.float64)
    theirs = trl.trl_scores(table, scale_rewards="none")["advantages"]
    torch.testing.assert_close(group_centre(table)[0], theirs, rtol=1e-9, atol=1e-9)


def test_a_lone_response_keeps_its_reward_as_in_verl_and_has_no_advantage_in_trl(trl: Any) -> None:
    table = torch.tensor([[0.7]], dtype=torch.float64)
    assert trl.trl_scores(table)["advantages"].tolist() == [0.0]
    assert group_normalise(table).item() == pytest.approx(0.7 / (1 + 1e-6), rel=1e-12)


def test_equal_rewards_have_exactly_no_advantage_here_and_rounding_in_trl(trl: Any) -> None:
    table = torch.full((1, 7), 0.1, dtype=torch.float64)
    assert not group_normalise(table).any()
    theirs = trl.trl_scores(table)["advantages"]
    assert theirs.abs().max() < 1e-9


# Where the formulas differ.


def verl_cispo(batch: PaddedBatch, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Transcribed: both bounds, around one; log-ratio within 20; mean over tokens."""
    ratio = (batch.logprobs - batch.old).clamp(-20, 20).exp()
    weights = ratio.clamp(1 - low, 1 + high).detach()
    losses = -weights * batch.advantages[:, None] * batch.logprobs
    return with_gradient((losses * batch.mask).sum() / batch.mask.sum(), batch)


@given(batch=batches())
def test_cispo_has_trls_upper_bound_or_verls_two_and_they_are_not_the_same(
    trl: Any, batch: PaddedBatch
) -> None:
    """The paper's eps is around one: TRL's 1.2 is the paper's and verl's 0.2."""
    upper = PolicyObjective("token", "token", 1.0, 0.2, surrogate="cispo")
    both = PolicyObjective("token", "token", 0.2, 0.2, surrogate="cispo")
    theirs, verls = trl.trl_loss(batch, "cispo", epsilon_high=1.2), verl_cispo(batch, 0.2, 0.2)
    assert_same(our_loss(batch, upper), theirs)
    assert_same(our_loss(batch, both), verls)
    # Apart by what verl lifts small weights to.
    ratio = (batch.logprobs - batch.old).exp().detach()
    lift = (0.8 - ratio).clamp(min=0) * batch.mask * batch.advantages[:, None] / batch.mask.sum()
    torch.testing.assert_close(verls[1] - theirs[1], -lift, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("log_ratio", "advantage"), [(25.0, -1.0), (-25.0, -1.0), (-25.0, 1.0)])
def test_log_ratios_beyond_twenty_are_cut_here_and_not_in_trl(
    trl: Any, log_ratio: float, advantage: float
) -> None:
    batch = padded_batch(0, [1], spread=0.0, advantages=[advantage])
    moved = (batch.old + log_ratio).requires_grad_()
    far = PaddedBatch(**{**vars(batch), "logprobs": moved})
    wide = PolicyObjective("token", "token", 1.0, 1e12)
    ours, gradient = our_loss(far, wide)
    theirs, their_gradient = trl.trl_loss(far, "bnpo", epsilon=1.0, epsilon_high=1e12)
    assert ours.item() == pytest.approx(-advantage * math.exp(math.copysign(20, log_ratio)))
    assert theirs.item() == pytest.approx(-advantage * math.exp(log_ratio))
    assert gradient.item() == 0
    assert their_gradient.item() == pytest.approx(-advantage * math.exp(log_ratio))


def test_sequence_ratios_beyond_ten_are_cut_here_and_not_in_trl(trl: Any) -> None:
    batch = padded_batch(0, [2], spread=0.0, advantages=[-1.0])
    moved = (batch.old + torch.tensor([[11.0, 13.0]], dtype=torch.float64)).requires_grad_()
    far = PaddedBatch(**{**vars(batch), "logprobs": moved})
    assert our_loss(far, GSPO)[0].item() == pytest.approx(math.exp(10))
    assert trl.trl_loss(far, "grpo", **GSPO_IN_TRL)[0].item() == pytest.approx(math.exp(12))


@given(batch=batches(), limit=st.floats(1.3, 10))
def test_the_dual_clip_bounds_losses_of_bad_tokens_and_trls_delta_does_so_by_the_ratio(
    trl: Any, batch: PaddedBatch, limit: float
) -> None:
    """The same for bad tokens if delta is the dual clip; good ones have no limit in either."""
    dual = PolicyObjective("token", "token", 0.2, 0.2, limit)
    assert_same(our_loss(batch, dual), trl.trl_loss(batch, "bnpo", delta=limit))


def test_without_delta_a_bad_tokens_loss_has_no_limit_in_trl(trl: Any) -> None:
    batch = padded_batch(0, [1], spread=0.0, advantages=[-2.0])
    moved = (batch.old + math.log(4.0)).requires_grad_()
    far = PaddedBatch(**{**vars(batch), "logprobs": moved})
    published = PolicyObjective("token", "token", 0.2, 0.2, 3.0)
    assert our_loss(far, published)[0].item() == pytest.approx(6.0)
    assert trl.trl_loss(far, "bnpo")[0].item() == pytest.approx(8.0)


UNEVEN = padded_batch(11, [1, 2, 9, 8], spread=0.5)
"""Two micro-batches of 3 and 17 tokens."""


def in_two(loss_type: str, trl: Any, **settings: Any) -> Tensor:
    """The gradient that TRL accumulates over both micro-batches."""
    parts = [UNEVEN.rows(0, 2), UNEVEN.rows(2, 4)]
    settings["accumulation"] = 2
    return torch.cat([trl.trl_loss(part, loss_type, **settings)[1] for part in parts])


def test_trls_dapo_counts_over_the_whole_batch_as_we_do(trl: Any) -> None:
    """However it is divided: ours with the batch's counts, TRL's since its pull request 6024."""
    whole = our_loss(UNEVEN, GRPO)[1]
    parts = [
        our_loss(part, GRPO, total_tokens=20.0, total_responses=4.0)[1]
        for part in (UNEVEN.rows(0, 2), UNEVEN.rows(2, 4))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    theirs = in_two("dapo", trl, num_items=20)
    torch.testing.assert_close(theirs, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo"])
def test_trls_means_over_equally_many_responses_are_ours_when_divided(
    trl: Any, loss_type: str
) -> None:
    objective = SEQUENCE_MEAN if loss_type == "grpo" else DR_GRPO
    whole = our_loss(UNEVEN, objective)[1]
    torch.testing.assert_close(in_two(loss_type, trl), whole, rtol=1e-9, atol=1e-9)


def test_trls_bnpo_depends_on_the_division_and_ours_does_not(trl: Any) -> None:
    """Each micro-batch is averaged alone: its 3 tokens weigh 1/6, the other's 17 tokens 1/34."""
    whole, theirs = our_loss(UNEVEN, GRPO)[1], in_two("bnpo", trl)
    expected = torch.cat([whole[:2] * 20 / 6, whole[2:] * 20 / 34])
    torch.testing.assert_close(theirs, expected, rtol=1e-9, atol=1e-9)
    assert (theirs - whole).abs().max() > 0.01


def test_verls_sum_norm_divides_by_the_width_of_the_padding_and_ours_by_the_limit() -> None:
    """By default; Dr.GRPO's constant has to be given to it."""
    batch = padded_batch(2, [3, 5], spread=0.3)
    assert batch.mask.shape[1] == 5
    by_width = our_loss(batch, DR_GRPO, max_response_tokens=5)[0]
    assert our_loss(batch, DR_GRPO)[0] * LIMIT / 5 == pytest.approx(by_width.item())
