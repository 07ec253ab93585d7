"""A real vLLM server against transformers and the trainer: tokens, scores, weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from model_builders import build_policy
from prism_trainer.engine.packing import Group
from prism_trainer.rollouts import SamplingParams
from rollout_servers import Served, build_client, build_requests
from served_models import mixed_rows

pytestmark = pytest.mark.vllm

GREEDY = SamplingParams(24, temperature=0.0)
CRITICAL = 31.26
"""Chi-square of 11 degrees of freedom that is exceeded with probability 0.001."""


def test_greedy_tokens_and_scores_equal_those_of_transformers_after_every_update(
    served: Served, tmp_path: Path
) -> None:
    answers, scored = set(), 0
    for version, seed in enumerate((1, 2, 3)):
        model = served.model(seed)
        reference = served.reference(model)
        client = build_client([served.server], model, tmp_path / str(version))
        client.update_weights(version)
        requests = build_requests(served.encoder, mixed_rows())
        for request, (completion,) in zip(requests, client.generate(requests, GREEDY), strict=True):
            assert request.row is not None
            assert completion.tokens.tolist() == reference.greedy(request.row, GREEDY.max_tokens)
            assert completion.weight_version == version
            if reference.can_score(completion.tokens):
                scores = reference.logprobs(request.row, completion.tokens)
                np.testing.assert_allclose(completion.logprobs, scores, rtol=0, atol=1e-4)
                scored += 1
            answers.add(tuple(completion.tokens.tolist()))
    assert len(answers) == 3 * len(mixed_rows()), "other weights give other answers"
    assert scored >= len(answers) // 2


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.5])
def test_scores_equal_the_trainers_at_the_same_temperature(
    dense: Served, tmp_path: Path, temperature: float
) -> None:
    model = dense.model(4)
    client = build_client([dense.server], model, tmp_path)
    client.update_weights(0)
    requests = build_requests(dense.encoder, mixed_rows(), samples=6)
    answers = client.generate(requests, SamplingParams(40, temperature))
    groups = [
        Group(request.prompt, tuple(c.tokens for c in completions))
        for request, completions in zip(requests, answers, strict=True)
    ]
    policy = build_policy(model)
    expected = torch.cat(policy.detached_logprobs(policy.packs(groups), temperature)).numpy()
    ours = np.concatenate([c.logprobs for completions in answers for c in completions])
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


def test_samples_end_where_they_say_and_differ_by_seed(dense: Served, tmp_path: Path) -> None:
    client = build_client([dense.server], talkative(dense, 5), tmp_path)
    client.update_weights(0)
    requests = build_requests(dense.encoder, mixed_rows(), samples=12)
    eos, limit = dense.encoder.eos_id, 48
    answers = client.generate(requests, SamplingParams(limit))
    for completions in answers:
        assert len(completions) == 12
        assert len({tuple(c.tokens) for c in completions}) > 6
        for completion in completions:
            assert len(completion.logprobs) == len(completion.tokens)
            assert completion.finished == (completion.tokens[-1] == eos)
            assert completion.finished or len(completion.tokens) == limit
            assert eos not in completion.tokens[:-1]
    sampled = [c for completions in answers for c in completions]
    assert 0 < sum(c.finished for c in sampled) < len(sampled)
    another = dense.processor.tokenizer.pad_token_id
    passed = [c for c in sampled if another in c.tokens[:-1]]
    assert len(passed) > 6, "the end token that only generation_config.json names ends nothing"


def talkative(served: Served, seed: int) -> PreTrainedModel:
    """A model whose end token, and the other one of its file, come at many different places."""
    model = served.model(seed)
    ends = [served.encoder.eos_id, served.processor.tokenizer.pad_token_id]
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
        model.lm_head.weight[ends] *= 2
    return model


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_first_tokens_are_as_frequent_as_the_softmax_says(
    dense: Served, tmp_path: Path, temperature: float
) -> None:
    model = dense.model(6)
    row = mixed_rows()[1]
    client = build_client([dense.server], model, tmp_path)
    client.update_weights(0)
    requests = build_requests(dense.encoder, [row] * 40, samples=100)
    answers = client.generate(requests, SamplingParams(1, temperature))
    tokens = np.array([c.tokens[0] for completions in answers for c in completions])
    nothing = np.empty(0, np.int64)
    log_p = dense.reference(model).distributions(row, nothing, temperature)[0]
    order = log_p.argsort(descending=True).numpy()
    places = np.arange(len(order))
    cells = np.searchsorted([1, 2, 3, 4, 6, 10, 20, 40, 80, 120, 200], places, "right")
    cell_of = np.empty_like(cells)
    cell_of[order] = cells
    wanted = np.bincount(cells, log_p.exp().double().numpy()[order], 12) * len(tokens)
    seen = np.bincount(cell_of[tokens], minlength=12)
    assert wanted.min() > 5, "cells too small for a chi-square"
    assert ((seen - wanted) ** 2 / wanted).sum() < CRITICAL


def test_fifty_updates_in_a_row_are_each_exact_with_images(dense: Served, tmp_path: Path) -> None:
    """Each changes language model and vision tower, so that no cached feature may survive."""
    model = dense.model(7)
    reference = dense.reference(model)
    client = build_client([dense.server], model, tmp_path)
    requests = build_requests(dense.encoder, mixed_rows()[1:], samples=2)
    generator = torch.Generator().manual_seed(0)
    worst, scored = 0.0, 0
    for version in range(50):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        client.update_weights(version)
        for request, completions in zip(
            requests, client.generate(requests, SamplingParams(8)), strict=True
        ):
            for completion in completions:
                assert completion.weight_version == version
                if reference.can_score(completion.tokens):
                    assert request.row is not None
                    scores = reference.logprobs(request.row, completion.tokens)
                    worst = max(worst, float(np.abs(scores - completion.logprobs).max()))
                    scored += 1
    assert worst < 1e-4
    assert scored > 200, "of 300 samples; the others contain an image's placeholder"
