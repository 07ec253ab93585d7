"""Samples, groups and packs: many samples in one row of tokens, a group's prompt only once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prism_trainer.engine.layout import AttentionLayout, Segment, build_layout
from prism_trainer.engine.rope import Grid

Tokens = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Prompt:
    """A tokenised prompt with its images."""

    token_ids: Tokens
    """[tokens], image placeholders expanded."""
    positions: Tokens
    """[3, tokens] M-RoPE positions."""
    is_image: NDArray[np.bool_]
    """[tokens] where image features go; a policy may also write the placeholder token itself."""
    pixel_values: Tensor | None = None
    """[patches, patch_size], all images one after the other."""
    grids: tuple[Grid, ...] = ()

    @cached_property
    def next_position(self) -> int:
        """Where the response's positions start."""
        return int(self.positions.max()) + 1


@dataclass(frozen=True, eq=False)
class Group:
    """One prompt and its continuations; each sees the prompt and itself, not the others."""

    prompt: Prompt
    continuations: tuple[Tokens, ...]
    classes: tuple[int, ...] = ()
    """A number per continuation for whoever needs to tell kinds apart (segment routing)."""

    @cached_property
    def num_tokens(self) -> int:
        """Tokens this group takes in a pack."""
        return len(self.prompt.token_ids) + sum(len(c) for c in self.continuations)


@dataclass(frozen=True, eq=False)
class Pack:
    """One row of tokens for the model, and where its continuations and their targets lie."""

    input_ids: Tensor
    """[1, tokens]"""
    position_ids: Tensor
    """[3, 1, tokens]"""
    text_layout: AttentionLayout
    vision_layout: AttentionLayout | None
    pixel_values: Tensor | None
    grid_thw: Tensor | None
    image_mask: Tensor | None
    """[1, tokens] where image features replace embeddings; none without images."""
    source_index: Tensor
    """[targets] the token whose hidden state predicts each target."""
    targets: Tensor
    """[targets] the continuations' tokens, one continuation after the other."""
    lengths: tuple[int, ...]
    """Tokens of each continuation."""
    last_index: Tensor
    """[continuations] last token of each continuation."""
    token_classes: Tensor
    """[tokens] class of each token's continuation; -1 for prompts."""
    group_sizes: tuple[int, ...] = field(default=())
    """Continuations of each group."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the pack."""
        return self.input_ids.shape[1]

    @cached_property
    def continuation_index(self) -> Tensor:
        """[targets] which continuation each target belongs to."""
        lengths = torch.tensor(self.lengths, device=self.targets.device)
        return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def split_into_packs(groups: Sequence[Group], max_tokens: int) -> list[list[Group]]:
    """Fill packs in order, each with at most `max_tokens` tokens.

    A group that is larger than a pack is divided and its prompt repeated; a single continuation
    that is larger gets a pack of its own.
    """
    packs: list[list[Group]] = []
    room = 0
    for group in _divided(groups, max_tokens):
        if not packs or group.num_tokens > room:
            packs.append([])
            room = max_tokens
        packs[-1].append(group)
        room -= group.num_tokens
    return packs


def _divided(groups: Sequence[Group], max_tokens: int) -> Iterable[Group]:
    for group in groups:
        if group.num_tokens <= max_tokens:
            yield group
            continue
        start, used = 0, len(group.prompt.token_ids)
        for i, continuation in enumerate(group.continuations):
            if i > start and used + len(continuation) > max_tokens:
                yield Group(group.prompt, group.continuations[start:i], group.classes[start:i])
                start, used = i, len(group.prompt.token_ids)
            used += len(continuation)
        yield Group(group.prompt, group.continuations[start:], group.classes[start:])


def build_pack(
    groups: Sequence[Group], device: torch.device | None = None, varlen: bool = False
) -> Pack:
    """Lay groups out one after the other: prompt, then each continuation."""
    device = device or torch.device("cpu")
    tokens: list[Tokens] = []
    positions: list[Tokens] = []
    is_image: list[NDArray[np.bool_]] = []
    segments: list[Segment] = []
    sources: list[Tokens] = []
    classes: list[Tokens] = []
    lasts: list[int] = []
    cursor = 0
    for group in groups:
        prompt, size = group.prompt, len(group.prompt.token_ids)
        start = cursor
        cursor += size
        tokens.append(prompt.token_ids)
        positions.append(prompt.positions)
        is_image.append(prompt.is_image)
        classes.append(np.full(size, -1))
        own_row = len(group.continuations) == 1
        if not own_row:
            segments.append(Segment(start, size))
        for i, continuation in enumerate(group.continuations):
            length = len(continuation)
            tokens.append(continuation)
            positions.append(np.tile(prompt.next_position + np.arange(length), (3, 1)))
            is_image.append(np.zeros(length, dtype=np.bool_))
            classes.append(np.full(length, group.classes[i] if group.classes else 0))
            shared = Segment(cursor, length, start, size)
            segments.append(Segment(start, size + length) if own_row else shared)
            previous = np.arange(cursor - 1, cursor + length - 1)
            previous[:1] = start + size - 1
            sources.append(previous)
            cursor += length
            lasts.append(cursor - 1)
    continuations = [c for group in groups for c in group.continuations]
    pixels, grids, vision = _images([group.prompt for group in groups], device, varlen)
    return Pack(
        input_ids=_tensor(np.concatenate(tokens), device)[None],
        position_ids=_tensor(np.concatenate(positions, axis=1), device)[:, None],
        text_layout=build_layout(segments, True, device, varlen),
        vision_layout=vision,
        pixel_values=pixels,
        grid_thw=grids,
        image_mask=None
        if pixels is None
        else torch.from_numpy(np.concatenate(is_image))[None].to(device),
        source_index=_tensor(np.concatenate([*sources, np.empty(0, np.int64)]), device),
        targets=_tensor(np.concatenate([*continuations, np.empty(0, np.int64)]), device),
        lengths=tuple(len(c) for c in continuations),
        last_index=_tensor(np.array(lasts, dtype=np.int64), device),
        token_classes=_tensor(np.concatenate(classes), device),
        group_sizes=tuple(len(group.continuations) for group in groups),
    )


def _images(
    prompts: Sequence[Prompt], device: torch.device, varlen: bool
) -> tuple[Tensor | None, Tensor | None, AttentionLayout | None]:
    pixels = [p.pixel_values for p in prompts if p.pixel_values is not None]
    if not pixels:
        return None, None, None
    grids = [grid for p in prompts for grid in p.grids]
    frames = [h * w for t, h, w in grids for _ in range(t)]
    starts = np.concatenate([[0], np.cumsum(frames)[:-1]]).tolist()
    segments = [Segment(start, length) for start, length in zip(starts, frames, strict=True)]
    layout = build_layout(segments, False, device, varlen)
    return torch.cat(pixels).to(device), torch.tensor(grids, device=device), layout


def _tensor(array: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)
