"""The key-value cache: it holds what was written, grows with the text, and knows its size."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_builders import build_policy
from prism_api.memory import sequences_that_fit
from prism_trainer.generation.cache import (
    KeyValueCache,
    bytes_per_sequence,
    grown,
    usable_bytes,
)
from prism_trainer.generation.weights import DecoderWeights, snapshot

PROMPT = 5


@pytest.fixture(scope="module")
def weights(model: Any) -> DecoderWeights:
    return snapshot(build_policy(model), torch.float32)


def test_what_was_written_survives_growth_and_the_end_of_other_sequences(
    weights: DecoderWeights,
) -> None:
    slots = 600
    rng = torch.Generator().manual_seed(0)
    texts = torch.randn(len(weights.layers), 2, 7, weights.kv_heads, slots, weights.dim,
                        generator=rng)  # fmt: skip
    left = torch.arange(7)
    cache, sizes = KeyValueCache(weights, 7, PROMPT, slots), set()
    for slot in range(slots):
        if slot in (63, 300):
            kept = torch.tensor([0, 2, 3]) if slot == 63 else torch.tensor([1, 2])
            left = left[kept]
            cache.keep(kept)
        cache.make_room(slot)
        sizes.add(cache.slots)
        for layer, text in zip(cache.layers, texts, strict=True):
            layer[:, :, :, slot] = text[:, left, :, slot]
    assert len(sizes) > 5
    assert left.tolist() == [2, 3]
    assert torch.equal(torch.stack(cache.layers), texts[:, :, left])


@given(
    prompt=st.integers(1, 3000),
    text=st.integers(1, 9000),
    reached=st.floats(0, 1, exclude_max=True),
)
def test_the_cache_is_little_longer_than_its_text_and_is_seldom_copied(
    prompt: int, text: int, reached: float
) -> None:
    limit, last = prompt + text, prompt + int(reached * text)
    slots, copied = grown(prompt, limit), 0
    while slots <= last:
        copied, slots = copied + slots, grown(slots, limit)
    assert last < slots <= min(limit, max(last + 64, 1.25 * last))
    assert copied <= 5 * last


def test_its_size_is_known_beforehand_and_shrinks_with_the_sequences(
    weights: DecoderWeights,
) -> None:
    cache = KeyValueCache(weights, 6, PROMPT, limit=40)
    size = bytes_per_sequence(weights, 40)
    assert (cache.slots, sum(layer.nbytes for layer in cache.layers)) == (40, 6 * size)
    cache.keep(torch.tensor([1, 5]))
    assert sum(layer.nbytes for layer in cache.layers) == 2 * size


@given(wanted=st.integers(1, 5000), size=st.integers(1, 1 << 34), usable=st.integers(0, 1 << 38))
def test_as_many_sequences_are_decoded_together_as_halving_makes_fit(
    wanted: int, size: int, usable: int
) -> None:
    count = sequences_that_fit(wanted, size, usable)
    assert 1 <= count <= wanted
    assert count == 1 or count * size <= usable
    assert count == wanted or 2 * count * size + size > usable


def test_nothing_limits_them_on_a_cpu() -> None:
    assert sequences_that_fit(256, 1 << 40, usable_bytes(torch.device("cpu"))) == 256
