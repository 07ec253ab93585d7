"""Which tokens of a pack attend to which: segments with a shared prefix, laid out for the kernels.

A segment attends to all tokens of its prefix and, causally, to itself. A prompt is a segment
without prefix; each response of a group is a segment whose prefix is that prompt. On a GPU this is
one variable-length kernel call with bottom-right aligned causality; on a CPU, segments of similar
length are attended to in one masked batch (padding exists inside the attention only).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
_MAX_SCORES = 1 << 24
"""Attention scores of one CPU batch; 64 MiB in float32."""


@dataclass(frozen=True)
class Segment:
    """Tokens [start, start + length) of the pack, seeing [prefix_start, prefix_start +
    prefix_length) too."""

    start: int
    length: int
    prefix_start: int = 0
    prefix_length: int = 0


@dataclass(frozen=True)
class Bucket:
    """Segments of similar length as one padded batch."""

    query_index: Tensor
    """[batch, queries] positions in the pack; padding repeats the last token."""
    key_index: Tensor
    """[batch, keys] prefix first, then the segment itself."""
    mask: Tensor
    """[batch, 1, queries, keys], true where a query sees a key."""


@dataclass(frozen=True)
class VarlenLayout:
    """Arguments of the variable-length kernel; keys are gathered, prefix first, per segment."""

    key_index: Tensor | None
    cu_queries: Tensor
    cu_keys: Tensor
    max_queries: int
    max_keys: int


@dataclass(frozen=True)
class AttentionLayout:
    """Everything the attention function needs; built once per pack, used by every layer."""

    buckets: tuple[Bucket, ...]
    restore_index: Tensor
    """[tokens] where each token of the pack lies in the concatenated bucket outputs."""
    varlen: VarlenLayout | None
    causal: bool


def build_layout(
    segments: Sequence[Segment],
    causal: bool,
    device: torch.device | None = None,
    varlen: bool = False,
) -> AttentionLayout:
    """Lay out segments that together cover a pack exactly once, in order of their starts.

    `varlen` is for the variable-length kernel: a GPU and half precision.
    """
    device = device or torch.device("cpu")
    if varlen:
        empty = torch.empty(0, dtype=torch.long)
        return AttentionLayout((), empty, _varlen(segments, device), causal)
    table = np.array(
        [(s.start, s.length, s.prefix_start, s.prefix_length) for s in segments], dtype=np.int64
    )
    groups = _similar(table)
    buckets = tuple(_bucket(table[rows], causal, device) for rows in groups)
    return AttentionLayout(buckets, _restore_index(table, groups).to(device), None, causal)


def _similar(table: Ints) -> list[Ints]:
    """Rows of segments grouped so that padding stays below about half."""
    keys = table[:, 1] + table[:, 3]
    order = np.lexsort((keys, table[:, 1]))
    groups: list[list[int]] = []
    for row in order.tolist():
        queries, total = int(table[row, 1]), int(keys[row])
        if groups:
            first = groups[-1][0]
            fits = queries <= 1.5 * table[first, 1] + 8 and total <= 1.5 * keys[first] + 16
            if fits and (len(groups[-1]) + 1) * queries * total <= _MAX_SCORES:
                groups[-1].append(row)
                continue
        groups.append([row])
    return [np.array(rows, dtype=np.int64) for rows in groups]


def _bucket(table: Ints, causal: bool, device: torch.device) -> Bucket:
    start, length, prefix_start, prefix = (table[:, i, None] for i in range(4))
    queries, keys = int(length.max()), int((length + prefix).max())
    q, k = np.arange(queries)[None], np.arange(keys)[None]
    own = start + np.minimum(k - prefix, length - 1)
    key_index = np.where(k < prefix, prefix_start + k, own)
    visible = np.broadcast_to((k < prefix + length)[:, None], (len(table), queries, keys))
    if causal:
        visible = visible & (k[:, None] <= prefix[:, None] + q[:, :, None])
    query_index = start + np.minimum(q, length - 1)
    return Bucket(
        torch.from_numpy(query_index).to(device),
        torch.from_numpy(key_index).to(device),
        torch.from_numpy(np.ascontiguousarray(visible))[:, None].to(device),
    )


def _restore_index(table: Ints, groups: Sequence[Ints]) -> Tensor:
    restore = np.empty(int(table[:, 1].sum()), dtype=np.int64)
    offset = 0
    for rows in groups:
        width = int(table[rows, 1].max())
        for i, row in enumerate(rows.tolist()):
            start, length = table[row, 0], table[row, 1]
            restore[start : start + length] = offset + i * width + np.arange(length)
        offset += len(rows) * width
    return torch.from_numpy(restore)


def _varlen(segments: Sequence[Segment], device: torch.device) -> VarlenLayout:
    lengths = np.array([s.length for s in segments])
    totals = lengths + np.array([s.prefix_length for s in segments])
    index = None
    if any(s.prefix_length for s in segments):
        parts = [
            part
            for s in segments
            for part in (
                np.arange(s.prefix_start, s.prefix_start + s.prefix_length),
                np.arange(s.start, s.start + s.length),
            )
        ]
        index = torch.from_numpy(np.concatenate(parts)).to(device)
    return VarlenLayout(
        index,
        _cumulative(lengths, device),
        _cumulative(totals, device),
        int(lengths.max()),
        int(totals.max()),
    )


def _cumulative(lengths: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).to(device)
