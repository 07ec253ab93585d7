"""Samples, groups and packs: many samples in one row of tokens, a group's prompt only once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
    num_filler: int = 0
    """Tokens at the end that are there only so that this pass uses every part of the model."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the groups."""
        return self.input_ids.shape[1] - self.num_filler

    @cached_property
    def continuation_index(self) -> Tensor:
        """[targets] which continuation each target belongs to."""
        lengths = torch.tensor(self.lengths, dtype=torch.long, device=self.targets.device)
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
    groups: Sequence[Group],
    device: torch.device | None = None,
    varlen: bool = False,
    filler: Prompt | None = None,
) -> Pack:
    """Lay groups out one after the other: prompt, then each continuation.

    A pack without images gets the filler, a prompt with an image that nothing continues: where
    weights are gathered from all processes, each must enter the vision tower if one does.
    """
    device = device or torch.device("cpu")
    has_images = any(group.prompt.grids for group in groups)
    padding = [] if filler is None or has_images else [Group(filler, ())]
    groups = [*groups, *padding]
    row = _Row()
    for group in groups:
        row.add(group)
    continuations = [c for group in groups for c in group.continuations]
    pixels, grids, vision = _images([group.prompt for group in groups], device, varlen)
    image_mask = torch.from_numpy(np.concatenate(row.is_image))[None].to(device)
    return Pack(
        input_ids=_tensor(np.concatenate(row.tokens), device)[None],
        position_ids=_tensor(np.concatenate(row.positions, axis=1), device)[:, None],
        text_layout=build_layout(row.segments, True, device, varlen),
        vision_layout=vision,
        pixel_values=pixels,
        grid_thw=grids,
        image_mask=None if pixels is None else image_mask,
        source_index=_tensor(np.concatenate([*row.sources, _NONE]), device),
        targets=_tensor(np.concatenate([*continuations, _NONE]), device),
        lengths=tuple(len(c) for c in continuations),
        last_index=_tensor(np.array(row.lasts, dtype=np.int64), device),
        token_classes=_tensor(np.concatenate(row.classes), device),
        num_filler=sum(group.num_tokens for group in padding),
    )


_NONE = np.empty(0, np.int64)


class _Row:
    """A pack in the making: one entry per prompt or continuation, in the order of the tokens."""

    def __init__(self) -> None:
        self.tokens: list[Tokens] = []
        self.positions: list[Tokens] = []
        self.is_image: list[NDArray[np.bool_]] = []
        self.classes: list[Tokens] = []
        self.segments: list[Segment] = []
        self.sources: list[Tokens] = []
        self.lasts: list[int] = []
        self._cursor = 0

    def add(self, group: Group) -> None:
        """Append a prompt and its continuations; a single one shares the prompt's segment."""
        prompt, start, size = group.prompt, self._cursor, len(group.prompt.token_ids)
        self._append(prompt.token_ids, prompt.positions, prompt.is_image, -1)
        alone = len(group.continuations) == 1
        if not alone:
            self.segments.append(Segment(start, size))
        for i, continuation in enumerate(group.continuations):
            first, length = self._cursor, len(continuation)
            positions = np.tile(prompt.next_position + np.arange(length), (3, 1))
            kind = group.classes[i] if group.classes else 0
            self._append(continuation, positions, np.zeros(length, dtype=np.bool_), kind)
            shared = Segment(first, length, start, size)
            self.segments.append(Segment(start, size + length) if alone else shared)
            predicted_by = np.arange(first - 1, first + length - 1)
            predicted_by[:1] = start + size - 1
            self.sources.append(predicted_by)
            self.lasts.append(self._cursor - 1)

    def _append(
        self, tokens: Tokens, positions: Tokens, is_image: NDArray[np.bool_], kind: int
    ) -> None:
        self.tokens.append(tokens)
        self.positions.append(positions)
        self.is_image.append(is_image)
        self.classes.append(np.full(len(tokens), kind))
        self._cursor += len(tokens)


def image_filler(config: Any) -> Prompt:
    """The smallest prompt with an image that a Qwen3-VL of this config takes: one token."""
    vision, merge = config.vision_config, config.vision_config.spatial_merge_size
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return Prompt(
        token_ids=np.array([config.image_token_id], dtype=np.int64),
        positions=np.zeros((3, 1), dtype=np.int64),
        is_image=np.ones(1, dtype=np.bool_),
        pixel_values=torch.zeros(merge**2, values),
        grids=((1, merge, merge),),
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
