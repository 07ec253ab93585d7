"""Dynamic sampling: what is trained, how old it is, and what its ratios compare with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from model_builders import reference_logprobs, within
from prism_api.errors import DataError
from prism_api.resources import DataSource
from prism_trainer.distributed import Ranks
from prism_trainer.rewards.reward import RewardWeights, score
from prism_trainer.stages.dynamic_sampling import DynamicSampling
from prism_trainer.stages.graded import GradedGroup
from prism_trainer.stages.policy_update import PolicyUpdate
from prism_trainer.stages.rlvr import RlvrProgram
from prism_trainer.stages.sampling import SampledGroup
from ranks_in_threads import on_every_rank
from rlvr_builders import Update, dapo_stage, program_of, run, watch_updates
from stage_builders import Row, rlvr_stage, with_truth, write_rows


@pytest.fixture
def half_hopeless(rows: list[Row], tmp_path: Path) -> DataSource:
    """Every other prompt has a gold answer that the policy never gives."""
    hopeless = [with_truth(row, "7777") if i % 2 else row for i, row in enumerate(rows)]
    return write_rows(tmp_path / "half.parquet", hopeless)


def is_informative(group: SampledGroup) -> bool:
    weights = RewardWeights(0.8, 0.2)
    return len({score(text, group.draw.row.truths, weights).accuracy for text in group.texts}) > 1


def test_dynamic_sampling_trains_on_informative_groups_only(
    talker: Path, half_hopeless: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_updates(monkeypatch)
    finished = run(dapo_stage(half_hopeless), talker, tmp_path / "run")
    assert [len(update.groups) for update in seen] == [2] * 4
    for update in seen:
        assert all(is_informative(group) for group in update.groups)
        assert all(values.any() for values in update.advantages)
    assert finished.history()[0]["informative_groups"] < 1


def test_without_dynamic_sampling_groups_that_teach_nothing_come_along(
    talker: Path, half_hopeless: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_updates(monkeypatch)
    stage = rlvr_stage(half_hopeless, algorithm="dapo", dynamic_sampling=False, batch_size=8)
    run(stage, talker, tmp_path / "run")
    assert not all(is_informative(group) for update in seen for group in update.groups)


def test_data_without_any_informative_group_is_refused_after_some_rounds(
    talker: Path, rows: list[Row], tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "hopeless.parquet", [with_truth(r, "7777") for r in rows])
    stage = dapo_stage(data, max_generation_rounds=2)
    with pytest.raises(DataError, match="after 2 rounds only 0 of 2 prompts"):
        run(stage, talker, tmp_path / "run")


@dataclass(frozen=True)
class Ball:
    """A group that is nothing but when it was sampled and whether it teaches."""

    step: int
    is_informative: bool


Rounds = Sequence[int]
"""How many of a round's groups are informative, round after round."""
BATCH, STEPS = 6, 5


def filled(ranks: Ranks, rounds: Rounds) -> Iterator[tuple[list[Ball], list[Ball]]]:
    """Batch and surplus of every step; the rounds' numbers come again and again."""
    dynamic = DynamicSampling[Ball](ranks, BATCH, max_rounds=40)
    number = 0
    for step in range(STEPS):

        def sample(_: int, step: int = step) -> list[Ball]:
            nonlocal number
            number += 1
            good = rounds[number % len(rounds)]
            return [Ball(step, True)] * good + [Ball(step, False)]

        batch, _ = dynamic.fill(step, sample)
        yield batch, list(dynamic.surplus)


LUCK = st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any)


@given(luck=st.one_of(*(st.tuples(*[LUCK] * size) for size in (1, 2, 3))))
def test_the_surplus_never_exceeds_one_share_and_is_never_older_than_a_step(
    luck: tuple[Rounds, ...],
) -> None:
    """However lucky one process is while another needs round after round."""
    size = len(luck)
    for steps in on_every_rank(size, lambda ranks: list(filled(ranks, luck[ranks.rank]))):
        for step, (batch, surplus) in enumerate(steps):
            assert len(batch) == BATCH // size >= len(surplus)
            assert all(ball.is_informative for ball in (*batch, *surplus))
            assert {ball.step for ball in batch} <= {step - 1, step}
            assert {ball.step for ball in surplus} <= {step}


def test_a_process_that_finds_too_little_is_named_by_what_all_have_found() -> None:
    def fill(ranks: Ranks) -> str:
        dynamic = DynamicSampling[Ball](ranks, BATCH, max_rounds=3)
        good = [Ball(0, True)] * (50 if ranks.rank else 0)
        with pytest.raises(DataError) as caught:
            dynamic.fill(0, lambda _: [*good, Ball(0, False)])
        return str(caught.value)

    messages = on_every_rank(2, fill)
    assert messages[0] == messages[1]
    assert "after 3 rounds only 3 of 6 prompts" in messages[0]


def step_by_hand(program: RlvrProgram, step: int) -> Any:
    """One iteration as the loop does it, with the weight version that it publishes."""
    program._context.client.update_weights(step * program._settings.mini_batches)
    return program.iterate("train", step).metrics


def test_the_surplus_is_used_before_anything_new_is_sampled(
    talker: Path, prompts: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_updates(monkeypatch)
    program = program_of(dapo_stage(prompts, learning_rate=1e-30), talker, tmp_path)
    step_by_hand(program, 0)
    first = program.facts()
    surplus = [group["position"] for group in first["surplus"][0]]
    assert first["position"] == 8, "one round of eight prompts"
    assert len(surplus) == 2, "as much as a batch, although more were informative"
    step_by_hand(program, 1)
    second = program.facts()
    assert second["position"] == 8, "nothing new"
    assert [group.draw.position for group in seen[1].groups] == surplus
    assert second["surplus"] == [[]]


def test_every_sampled_group_counts_once_and_in_the_step_that_sampled_it(
    talker: Path, prompts: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[list[GradedGroup]] = []
    inner = RlvrProgram._sample

    def watching(self: RlvrProgram, *arguments: Any) -> list[GradedGroup]:
        rounds.append(inner(self, *arguments))
        return rounds[-1]

    monkeypatch.setattr(RlvrProgram, "_sample", watching)
    program = program_of(dapo_stage(prompts, learning_rate=1e-30), talker, tmp_path)
    first, second = (step_by_hand(program, step) for step in range(2))
    (groups,) = rounds
    totals = torch.cat([g.totals for g in groups])
    assert first["reward"] == pytest.approx(totals.mean().item())
    assert first["informative_groups"] == sum(g.is_informative for g in groups) / 8
    lengths = [len(c.tokens) for g in groups for c in g.group.completions]
    assert first["response_tokens"] == pytest.approx(sum(lengths) / len(lengths))
    # The second step trains on the surplus and samples nothing.
    assert not second.keys() & {"reward", "accuracy", "informative_groups", "response_tokens"}
    assert second["tokens"] > 0


def test_the_surplus_survives_a_resume(talker: Path, prompts: DataSource, tmp_path: Path) -> None:
    stage = dapo_stage(prompts, learning_rate=1e-30)
    before, after = (program_of(stage, talker, tmp_path) for _ in range(2))
    step_by_hand(before, 0)
    after.load_facts(before.facts())
    assert after.facts() == before.facts()
    assert step_by_hand(before, 1) == step_by_hand(after, 1)
    assert after.facts() == before.facts()


def weights_of(program: RlvrProgram) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in program._context.policy.model.state_dict().items()}


CLIP, DUAL_CLIP = 0.02, 10.0


def transcribed_loss(model: Any, update: Update, version: int) -> Tensor:
    """DAPO's loss response by response: clipped ratios to the log-probabilities at sampling for
    what older weights sampled, ratio 1 for the rest."""
    total = torch.zeros(())
    for group, advantages in zip(update.groups, update.advantages, strict=True):
        ours = reference_logprobs(model, [group.packed()])
        parts = ours.split([len(c.tokens) for c in group.completions])
        for logprobs, a, completion in zip(parts, advantages, group.completions, strict=True):
            old = logprobs.detach()
            if completion.weight_version < version:
                old = torch.from_numpy(completion.logprobs)
            ratio = (logprobs - old).exp()
            losses = torch.maximum(-a * ratio, -a * ratio.clamp(1 - CLIP, 1 + CLIP))
            limited = torch.minimum(losses, -a * DUAL_CLIP)
            total = total + (limited if a < 0 else losses).sum()
    return total / sum(len(c.tokens) for g in update.groups for c in g.completions)


def reference_gradients(
    talker: Path, weights: dict[str, Tensor], update: Update, version: int
) -> dict[str, Tensor]:
    model: Any = Qwen3VLForConditionalGeneration.from_pretrained(talker)
    model.load_state_dict(weights)
    transcribed_loss(model, update, version).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mini_batches", [1, 3])
def test_the_gradient_of_a_batch_with_surplus_is_that_of_its_ratios(
    talker: Path,
    prompts: DataSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mini_batches: int,
) -> None:
    """A batch of three groups, some left over from the step before and some fresh."""
    stage = dapo_stage(
        prompts,
        batch_size=3,
        generation_batch_size=5,
        mini_batches=mini_batches,
        learning_rate=3e-3,
        warmup_steps=0,
        grad_clip=0.0,
        clip_low=CLIP,
        clip_high=CLIP,
        dual_clip=DUAL_CLIP,
    )
    program = program_of(stage, talker, tmp_path)
    step_by_hand(program, 0)
    weights = weights_of(program)
    seen = watch_updates(monkeypatch)
    gradients: list[dict[str, Tensor]] = []
    forwards: list[SampledGroup] = []
    inner_run, inner_forward = PolicyUpdate.run, PolicyUpdate.current_logprobs

    def keep_gradients(self: PolicyUpdate, *arguments: Any) -> Any:
        report = inner_run(self, *arguments)
        named = program._context.policy.model.named_parameters()
        gradients.append({n: p.grad.clone() for n, p in named if p.requires_grad})
        return report

    def count_forwards(self: PolicyUpdate, groups: Sequence[SampledGroup]) -> Any:
        forwards.extend(groups)
        return inner_forward(self, groups)

    monkeypatch.setattr(PolicyUpdate, "run", keep_gradients)
    monkeypatch.setattr(PolicyUpdate, "current_logprobs", count_forwards)
    metrics = step_by_hand(program, 1)
    is_stale = [
        group.completions[0].weight_version < mini_batches
        for update in seen
        for group in update.groups
    ]
    assert set(is_stale) == {True, False}, "both kinds are there"
    assert len(forwards) == (0 if mini_batches == 1 else is_stale.count(False))
    assert metrics["clip_fraction"] > 0
    # The first optimizer step; those after it start from weights that this one has moved.
    theirs = reference_gradients(talker, weights, seen[0], mini_batches)
    ours = {name: gradients[0][name] for name in theirs}
    assert within(ours, theirs)
    on_policy = reference_gradients(talker, weights, seen[0], version=0)
    assert not within(ours, on_policy), "ratios that could not be told from 1"
