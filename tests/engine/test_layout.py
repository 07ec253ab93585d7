"""Which tokens see which: the padded batches of the CPU and the index lists of the GPU kernel.

Reference: attention written out with one mask over the whole pack.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prism_trainer.engine.attention import packed_attention
from prism_trainer.engine.layout import AttentionLayout, Segment, build_layout

HEADS, KEY_HEADS, DIM = 4, 2, 8
SCALING = 0.3
GROUPS = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 40), max_size=4)), min_size=1, max_size=5
)


@dataclass
class Tower:
    """All that the attention function asks of the module it is called for."""

    is_causal: bool


def segments_of(groups: list[tuple[int, list[int]]]) -> list[Segment]:
    """A prompt's segment, then one per response with the prompt as its prefix."""
    segments, cursor = [], 0
    for prompt, responses in groups:
        start = cursor
        segments.append(Segment(start, prompt))
        cursor += prompt
        for length in responses:
            segments.append(Segment(cursor, length, start, prompt))
            cursor += length
    return segments


def tensors(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(1, heads, tokens, DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return q, k, v


def reference(q: Tensor, k: Tensor, v: Tensor, segments: list[Segment], causal: bool) -> Tensor:
    tokens = q.shape[2]
    visible = torch.zeros(tokens, tokens, dtype=torch.bool)
    for s in segments:
        own = slice(s.start, s.start + s.length)
        block = torch.ones(s.length, s.length, dtype=torch.bool)
        visible[own, own] = block.tril() if causal else block
        visible[own, s.prefix_start : s.prefix_start + s.prefix_length] = True
    k, v = (x.repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2) * SCALING).masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def kernel(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout) -> Tensor:
    """The variable-length kernel in plain words: one sequence after the other, causality aligned
    at the end."""
    varlen = layout.varlen
    assert varlen is not None
    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    if varlen.key_index is not None:
        k, v = k[varlen.key_index], v[varlen.key_index]
    k, v = (x.repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in (k, v))
    outputs = []
    for i in range(len(varlen.cu_queries) - 1):
        queries = slice(int(varlen.cu_queries[i]), int(varlen.cu_queries[i + 1]))
        keys = slice(int(varlen.cu_keys[i]), int(varlen.cu_keys[i + 1]))
        count, total = queries.stop - queries.start, keys.stop - keys.start
        assert count <= varlen.max_queries
        assert total <= varlen.max_keys
        scores = torch.einsum("qhd,khd->hqk", q[queries], k[keys]) * SCALING
        if layout.causal:
            late = torch.ones(count, total, dtype=torch.bool).triu(total - count + 1)
            scores = scores.masked_fill(late, -torch.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[keys]))
    return torch.cat(outputs)[None]


def attend(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, causal: bool) -> Tensor:
    tower: Any = Tower(is_causal=causal)
    output, _ = packed_attention(
        tower, q, k, v, None, scaling=SCALING, text_layout=layout, vision_layout=layout
    )
    return output


@given(groups=GROUPS)
def test_responses_see_their_prompt_and_themselves_up_to_now(
    groups: list[tuple[int, list[int]]],
) -> None:
    segments = segments_of(groups)
    q, k, v = tensors(sum(s.length for s in segments))
    expected = reference(q, k, v, segments, causal=True)
    ours = attend(q, k, v, build_layout(segments, causal=True), causal=True)
    torch.testing.assert_close(ours, expected)


@given(groups=GROUPS)
def test_the_kernels_index_lists_say_the_same(groups: list[tuple[int, list[int]]]) -> None:
    segments = segments_of(groups)
    q, k, v = tensors(sum(s.length for s in segments))
    layout = build_layout(segments, causal=True, varlen=True)
    torch.testing.assert_close(kernel(q, k, v, layout), reference(q, k, v, segments, causal=True))


@pytest.mark.parametrize("frames", [[4], [16, 4, 4, 24], [8] * 5], ids=str)
def test_images_see_themselves_in_both_directions(frames: list[int]) -> None:
    starts = [sum(frames[:i]) for i in range(len(frames))]
    segments = [Segment(start, length) for start, length in zip(starts, frames, strict=True)]
    q, k, v = tensors(sum(frames))
    expected = reference(q, k, v, segments, causal=False)
    ours = attend(q, k, v, build_layout(segments, causal=False), causal=False)
    torch.testing.assert_close(ours, expected)
    layout = build_layout(segments, causal=False, varlen=True)
    torch.testing.assert_close(kernel(q, k, v, layout), expected)


def test_padding_inside_the_batches_stays_small() -> None:
    """Lengths of all sizes: the padded work is at most about twice the real one."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 200, (60,), generator=generator).tolist()
    segments = segments_of([(20, lengths)])
    layout = build_layout(segments, causal=True)
    padded = sum(bucket.mask.numel() for bucket in layout.buckets)
    real = sum(s.length * (s.length + s.prefix_length) for s in segments)
    assert real <= padded < 2.5 * real
    assert len(layout.buckets) < len(segments) / 3
