"""Greedy decoding against transformers' own generate, prompt by prompt."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from model_builders import build_policy, model_inputs
from prism_trainer.engine.packing import Group, Pack, Prompt, Tokens
from prism_trainer.engine.policy import Policy
from prism_trainer.generation import cache as cache_module
from prism_trainer.generation.generator import InProcessGenerator
from prism_trainer.rollouts import Completion, Request, SamplingParams

NEVER = 10_000
"""No token has this number."""
LIMIT = 20


def transformers_tokens(model: Any, prompt: Prompt, eos_id: int, limit: int = LIMIT) -> Tokens:
    model.model.rope_deltas = None
    inputs = model_inputs(prompt)
    tokens = model.generate(
        **inputs,
        attention_mask=torch.ones_like(inputs["input_ids"]),
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=eos_id,
        pad_token_id=0,
    )
    result: Tokens = tokens[0, len(prompt.token_ids) :].numpy()
    return result


def greedy(
    model: Any,
    prompts: list[Prompt],
    eos_id: int,
    limit: int = LIMIT,
    batch_size: int = 256,
    max_tokens_per_pack: int = 100_000,
) -> list[Completion]:
    generator = InProcessGenerator(build_policy(model, max_tokens_per_pack), eos_id, batch_size)
    requests = [Request(prompt, (0,)) for prompt in prompts]
    return [c[0] for c in generator.generate(requests, SamplingParams(limit, temperature=0.0))]


@pytest.fixture(scope="session")
def unbounded(model: Any, prompts: list[Prompt]) -> list[Tokens]:
    """What transformers writes when nothing ends it but the limit."""
    return [transformers_tokens(model, prompt, NEVER) for prompt in prompts]


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_tokens_equal_those_of_transformers_generate(
    model: Any, prompts: list[Prompt], unbounded: list[Tokens], batch_size: int
) -> None:
    ours = greedy(model, prompts, NEVER, batch_size=batch_size)
    for completion, tokens in zip(ours, unbounded, strict=True):
        assert completion.tokens.tolist() == tokens.tolist()
        assert not completion.finished
    assert len({tuple(tokens) for tokens in unbounded}) == len(prompts), "all alike proves nothing"


@pytest.mark.parametrize(("max_tokens", "packs"), [(1, 6), (40, 3), (1000, 1)])
def test_prompts_are_encoded_in_packs_of_limited_size(
    model: Any,
    prompts: list[Prompt],
    unbounded: list[Tokens],
    max_tokens: int,
    packs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[list[int]] = []
    pack = Policy.pack

    def watched(policy: Policy, groups: Sequence[Group]) -> Pack:
        sizes.append([group.num_tokens for group in groups])
        return pack(policy, groups)

    monkeypatch.setattr(Policy, "pack", watched)
    ours = greedy(model, prompts, NEVER, max_tokens_per_pack=max_tokens)
    assert [c.tokens.tolist() for c in ours] == [tokens.tolist() for tokens in unbounded]
    assert all(sum(tokens) <= max_tokens or len(tokens) == 1 for tokens in sizes)
    assert len(sizes) == packs
    encoded = [tokens for part in sizes for tokens in part]
    assert encoded == [len(prompt.token_ids) for prompt in prompts], "each once, in order"


@pytest.mark.parametrize("more", [1, 7, 10_000], ids=lambda n: f"{n} at a time")
def test_tokens_do_not_depend_on_how_the_cache_grows(
    model: Any,
    prompts: list[Prompt],
    unbounded: list[Tokens],
    more: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def grown(slots: int, limit: int) -> int:
        asked.append(slots)
        return min(limit, slots + more)

    monkeypatch.setattr(cache_module, "grown", grown)
    ours = greedy(model, prompts, NEVER)
    assert [c.tokens.tolist() for c in ours] == [tokens.tolist() for tokens in unbounded]
    assert len(asked) == 1 + (LIMIT - 2) // more, "the last token is never written"


def test_long_responses_equal_those_of_transformers(model: Any, prompts: list[Prompt]) -> None:
    """The cache grows twice on the way."""
    (completion,) = greedy(model, prompts[1:2], NEVER, limit=140)
    assert completion.tokens.tolist() == transformers_tokens(model, prompts[1], NEVER, 140).tolist()


def test_decoding_stops_at_the_end_token_as_transformers_does(
    model: Any, prompts: list[Prompt], unbounded: list[Tokens]
) -> None:
    """For every token that occurs, as the end token."""
    ends = sorted({int(token) for tokens in unbounded for token in tokens})
    lengths = set()
    for eos_id in ends[:: max(1, len(ends) // 6)]:
        for completion, whole in zip(greedy(model, prompts, eos_id), unbounded, strict=True):
            places = np.flatnonzero(whole == eos_id)
            expected = whole[: places[0] + 1] if len(places) else whole
            assert completion.tokens.tolist() == expected.tolist()
            assert completion.finished == bool(len(places))
            lengths.add(len(expected))
    assert len(lengths) > 3


def test_transformers_stops_there_too(
    model: Any, prompts: list[Prompt], unbounded: list[Tokens]
) -> None:
    eos_id = int(unbounded[1][4])
    ours = greedy(model, prompts, eos_id)
    for completion, prompt in zip(ours, prompts, strict=True):
        assert completion.tokens.tolist() == transformers_tokens(model, prompt, eos_id).tolist()


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_responses_end_at_the_length_limit(
    model: Any, prompts: list[Prompt], unbounded: list[Tokens], limit: int
) -> None:
    for completion, tokens in zip(greedy(model, prompts, NEVER, limit), unbounded, strict=True):
        assert completion.tokens.tolist() == tokens[:limit].tolist()
        assert not completion.finished


def test_an_end_token_at_the_very_limit_still_finishes(
    model: Any, prompts: list[Prompt], unbounded: list[Tokens]
) -> None:
    tokens = unbounded[3]
    place = int(np.flatnonzero(tokens == tokens[6])[0])
    (completion,) = greedy(model, prompts[3:4], int(tokens[6]), limit=place + 1)
    assert completion.tokens.tolist() == tokens[: place + 1].tolist()
    assert completion.finished


def test_logprobs_equal_those_of_the_packed_trainer(model: Any, prompts: list[Prompt]) -> None:
    policy = build_policy(model)
    completions = greedy(model, prompts, NEVER)
    groups = [Group(p, (c.tokens,)) for p, c in zip(prompts, completions, strict=True)]
    expected = torch.cat(policy.detached_logprobs(policy.packs(groups)))
    ours = torch.from_numpy(np.concatenate([c.logprobs for c in completions]))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
