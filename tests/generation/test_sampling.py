"""Sampling: the right distribution, and nothing but seed, prompt and weights decides."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_builders import build_model, build_policy, build_prompt, reference_logits
from prism_trainer.engine.packing import Group, Prompt
from prism_trainer.generation import cache as cache_module
from prism_trainer.generation import generator as generator_module
from prism_trainer.generation.cache import bytes_per_sequence
from prism_trainer.generation.generator import InProcessGenerator
from prism_trainer.generation.weights import snapshot
from prism_trainer.rollouts import Completion, Request, SamplingParams

EOS = 5
LIMIT = 24


def sample(
    model: Any,
    requests: list[Request],
    temperature: float = 1.0,
    batch_size: int = 256,
    limit: int = LIMIT,
    eos_id: int = EOS,
) -> list[list[Completion]]:
    generator = InProcessGenerator(build_policy(model), eos_id, batch_size)
    return generator.generate(requests, SamplingParams(limit, temperature))


def tokens_of(completions: list[list[Completion]]) -> list[list[list[int]]]:
    return [[c.tokens.tolist() for c in group] for group in completions]


@pytest.fixture(scope="module")
def lively() -> Any:
    """A model of which the end token is likely enough to come at many different places."""
    model = build_model(seed=8)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
        model.lm_head.weight[EOS] *= 2
    return model


@pytest.fixture(scope="module")
def requests(prompts: list[Prompt]) -> list[Request]:
    return [Request(p, tuple(range(100 * i, 100 * i + 6))) for i, p in enumerate(prompts)]


@pytest.fixture(scope="module")
def whole(lively: Any, requests: list[Request]) -> list[list[Completion]]:
    return sample(lively, requests)


def test_responses_end_at_many_different_places(whole: list[list[Completion]]) -> None:
    lengths = [len(c.tokens) for group in whole for c in group]
    assert len(set(lengths)) > 8
    for completion in (c for group in whole for c in group):
        assert completion.finished == (completion.tokens[-1] == EOS)
        assert completion.finished or len(completion.tokens) == LIMIT
        assert EOS not in completion.tokens[:-1]
        assert len(completion.logprobs) == len(completion.tokens)


def test_tokens_do_not_depend_on_what_else_is_in_the_batch(
    lively: Any, requests: list[Request], whole: list[list[Completion]]
) -> None:
    for request, together in zip(requests, whole, strict=True):
        alone = sample(lively, [request])[0]
        single = [sample(lively, [Request(request.prompt, (s,))])[0][0] for s in request.seeds[:2]]
        for ours, theirs in zip([*alone, *single], [*together, *together[:2]], strict=True):
            assert ours.tokens.tolist() == theirs.tokens.tolist()
            np.testing.assert_allclose(ours.logprobs, theirs.logprobs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 17])
def test_tokens_do_not_depend_on_the_batch_size(
    lively: Any, requests: list[Request], whole: list[list[Completion]], batch_size: int
) -> None:
    assert tokens_of(sample(lively, requests, batch_size=batch_size)) == tokens_of(whole)


@pytest.mark.parametrize(("sequences", "batches"), [(1000, [36]), (20, [18, 18]), (5, [4] * 9)])
def test_memory_limits_how_many_are_decoded_together_but_not_what_comes_of_them(
    lively: Any,
    requests: list[Request],
    whole: list[list[Completion]],
    sequences: int,
    batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU that has room for so many sequences of full length."""
    slots = max(len(request.prompt.token_ids) for request in requests) + LIMIT
    usable = sequences * bytes_per_sequence(snapshot(build_policy(lively), torch.float32), slots)
    monkeypatch.setattr(generator_module, "usable_bytes", lambda _: usable)
    seen = []
    decode = InProcessGenerator._loop

    def watched(generator: Any, decoder: Any, uniforms: Any, params: Any, count: int) -> Any:
        seen.append(count)
        return decode(generator, decoder, uniforms, params, count)

    monkeypatch.setattr(InProcessGenerator, "_loop", watched)
    assert tokens_of(sample(lively, requests)) == tokens_of(whole)
    assert seen == batches


@pytest.mark.parametrize("share", [0.0, 1.01], ids=["never compacted", "at every end"])
def test_dropping_finished_sequences_changes_nothing(
    lively: Any,
    requests: list[Request],
    whole: list[list[Completion]],
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generator_module, "_COMPACT_BELOW", share)
    again = sample(lively, requests)
    assert tokens_of(again) == tokens_of(whole)
    for ours, theirs in zip(again, whole, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=0, atol=1e-5)


def test_repeating_a_request_repeats_every_bit(
    lively: Any, requests: list[Request], whole: list[list[Completion]]
) -> None:
    again = sample(lively, requests)
    for ours, theirs in zip(again, whole, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.tokens.tobytes() == b.tokens.tobytes()
            assert a.logprobs.tobytes() == b.logprobs.tobytes()


@pytest.mark.parametrize("share", [0.0, 1.01], ids=["never compacted", "at every end"])
def test_a_cache_that_grows_at_every_step_changes_nothing(
    lively: Any,
    requests: list[Request],
    whole: list[list[Completion]],
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generator_module, "_COMPACT_BELOW", share)
    monkeypatch.setattr(cache_module, "grown", lambda slots, limit: min(limit, slots + 1))
    assert tokens_of(sample(lively, requests)) == tokens_of(whole)


def test_nothing_asked_for_is_nothing_sampled(model: Any, prompts: list[Prompt]) -> None:
    assert sample(model, []) == []
    assert sample(model, [Request(prompts[0], ())]) == [[]]


def test_other_seeds_give_other_tokens(whole: list[list[Completion]]) -> None:
    for group in tokens_of(whole):
        assert len({tuple(tokens) for tokens in group}) > 3


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_logprobs_are_the_trainers_at_the_same_temperature(
    lively: Any, requests: list[Request], temperature: float
) -> None:
    policy = build_policy(lively)
    completions = sample(lively, requests, temperature)
    groups = [
        Group(request.prompt, tuple(c.tokens for c in group))
        for request, group in zip(requests, completions, strict=True)
    ]
    expected = torch.cat(policy.detached_logprobs(policy.packs(groups), temperature))
    ours = torch.from_numpy(np.concatenate([c.logprobs for group in completions for c in group]))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


CRITICAL = {5: 20.5, 35: 66.6}
"""Chi-square exceeded with probability 0.001, by degrees of freedom."""


@dataclass(frozen=True)
class TinyWorld:
    """A model of six words and a prompt in them."""

    model: Any
    prompt: Prompt

    def probabilities(self, start: list[int], temperature: float) -> Any:
        logits = reference_logits(self.model, self.prompt, np.array(start, dtype=np.int64))
        return (logits[-1] / temperature).softmax(-1).detach().double().numpy()


@pytest.fixture(scope="module")
def tiny() -> TinyWorld:
    rng = np.random.default_rng(0)
    return TinyWorld(build_model(seed=2, vocabulary=6), build_prompt(rng, (), 4, vocabulary=6))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_pairs_of_tokens_are_as_frequent_as_the_softmax_says(
    tiny: TinyWorld, temperature: float
) -> None:
    count = 6000
    request = Request(tiny.prompt, tuple(range(count)))
    (completions,) = sample(tiny.model, [request], temperature, batch_size=2000, limit=2, eos_id=-1)
    observed = np.zeros((6, 6))
    for completion in completions:
        observed[tuple(completion.tokens)] += 1
    first = tiny.probabilities([], temperature)
    joint = np.stack([first[a] * tiny.probabilities([a], temperature) for a in range(6)])
    for seen, wanted in (
        (observed.sum(1), first * count),
        (observed.ravel(), joint.ravel() * count),
    ):
        assert wanted.min() > 2, "cells too small for a chi-square"
        assert ((seen - wanted) ** 2 / wanted).sum() < CRITICAL[len(wanted) - 1]


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 1), (0.24, 1), (0.26, 2), (1 - 1e-12, 2)], ids=str
)
def test_tokens_without_probability_are_never_chosen(uniform: float, token: int) -> None:
    """Not even by a number so near to 1 that float32 rounds it up."""
    logits = torch.tensor([[-1e4, 0.0, float(np.log(3)), -1e4, -1e4]])
    draw = torch.tensor([uniform], dtype=torch.float64)
    chosen, logprob = generator_module._choose(logits, draw, 1.0)
    assert chosen.item() == token
    assert logprob.exp().item() == pytest.approx(0.25 if token == 1 else 0.75)


LOGITS = st.lists(st.floats(-12, 12, width=32), min_size=1, max_size=20)
TEMPERATURES = st.sampled_from([0.3, 1.0, 2.5])


@given(logits=LOGITS, temperature=TEMPERATURES)
def test_evenly_spread_numbers_give_each_token_its_share_in_order(
    logits: list[float], temperature: float
) -> None:
    """The inverse transform, not only in the mean: a token has an interval of its probability's
    width, and intervals are in the order of tokens."""
    count = 1000
    rows = torch.tensor(logits).expand(count, -1)
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    scaled = np.array(logits, dtype=np.float64) / temperature
    shares = np.exp(scaled - np.logaddexp.reduce(scaled))

    tokens, logprobs = generator_module._choose(rows, uniforms, temperature)

    assert (tokens.diff() >= 0).all()
    frequencies = torch.bincount(tokens, minlength=len(logits)).numpy() / count
    np.testing.assert_allclose(frequencies, shares, rtol=0, atol=1.01 / count)
    np.testing.assert_allclose(logprobs.exp().numpy(), shares[tokens.numpy()], rtol=1e-4)


@given(logits=LOGITS, temperature=TEMPERATURES, uniform=st.floats(0, 1, exclude_max=True))
def test_a_row_is_drawn_alike_in_every_batch(
    logits: list[float], temperature: float, uniform: float
) -> None:
    row, draw = torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64)
    others = torch.cat([torch.zeros_like(row), row, row.flip(1)])
    uniforms = torch.tensor([0.5, uniform, 0.1], dtype=torch.float64)

    alone, _ = generator_module._choose(row, draw, temperature)
    together, _ = generator_module._choose(others, uniforms, temperature)

    assert together[1] == alone[0]


def test_temperature_sharpens_and_flattens(tiny: TinyWorld) -> None:
    shares = []
    for temperature in (0.3, 1.0, 3.0):
        request = Request(tiny.prompt, tuple(range(1000)))
        (completions,) = sample(tiny.model, [request], temperature, 1000, limit=1, eos_id=-1)
        best = int(tiny.probabilities([], 1.0).argmax())
        shares.append(np.mean([c.tokens[0] == best for c in completions]))
    assert shares[0] > shares[1] + 0.05 > shares[2] + 0.1


def test_the_weight_version_is_recorded_and_weights_are_the_policys_own(
    model: Any, prompts: list[Prompt]
) -> None:
    policy = build_policy(model)
    generator = InProcessGenerator(policy, EOS, 16)
    requests = [Request(prompts[1], (1, 2))]
    params = SamplingParams(LIMIT, 1.0)
    before = generator.generate(requests, params)
    with torch.no_grad():
        policy.model.lm_head.weight.neg_()
    generator.update_weights(7)
    after = generator.generate(requests, params)
    assert {c.weight_version for c in before[0]} == {0}
    assert {c.weight_version for c in after[0]} == {7}
    assert tokens_of(before) != tokens_of(after)
