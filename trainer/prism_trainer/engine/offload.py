"""Optimizer states that lie in host memory and are on the GPU only while they are stepped.

Where two models do not fit on a GPU together with their states (a policy and its discriminator),
this leaves the room to whichever is being computed. Copies run on a stream of their own, from and
to page-locked memory, beside whatever the GPU computes meanwhile.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_MOMENTS = ("exp_avg", "exp_avg_sq")
_BLOCK = 1 << 28
"""Numbers of a block of page-locked memory: 1 GiB."""
_ALIGNMENT = 64
"""Numbers: copies start at a multiple of 256 bytes."""
States = Mapping[Tensor, dict[str, Any]]


class HostStates:
    """Moves AdamW's moments; on a CPU they are where they belong already."""

    def __init__(self, device: torch.device) -> None:
        """`device`: of the parameters."""
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._host: dict[tuple[Tensor, str], Tensor] = {}

    def fetch(self, states: States) -> None:
        """Bring all moments to their parameters' device."""
        if self._stream is None:
            return
        # Memory of the computing stream: what a step leaves free serves the next pass.
        places = {
            (parameter, key): torch.empty_like(state[key], device=parameter.device)
            for parameter, state in states.items()
            for key in _MOMENTS
        }
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for (parameter, key), place in places.items():
                place.copy_(states[parameter][key], non_blocking=True)
                place.record_stream(self._stream)
                states[parameter][key] = place
        torch.cuda.current_stream().wait_stream(self._stream)

    def put_away(self, states: States) -> None:
        """Bring all moments to the host once the device is done with them."""
        if self._stream is None:
            return
        if not self._host:
            self._take_places(states)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for parameter, state in states.items():
                for key in _MOMENTS:
                    moment: Tensor = state[key]
                    host = self._host[parameter, key]
                    host.copy_(moment, non_blocking=True)
                    moment.record_stream(self._stream)
                    state[key] = host

    def _take_places(self, states: States) -> None:
        """Once: all moments are there from the first step on, and keep their sizes."""
        keys = [(parameter, key) for parameter in states for key in _MOMENTS]
        blocks, places = in_blocks([parameter.numel() for parameter, _ in keys], _BLOCK)
        memory = [torch.empty(size, dtype=torch.float32, pin_memory=True) for size in blocks]
        for (parameter, key), (block, start) in zip(keys, places, strict=True):
            part = memory[block][start : start + parameter.numel()]
            self._host[parameter, key] = part.view(parameter.shape)

    def wait(self) -> None:
        """Until what was put away is there to be read."""
        if self._stream is not None:
            self._stream.synchronize()


def in_blocks(sizes: Sequence[int], block: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Sizes of blocks that hold parts of these sizes, and of each part its block and where it
    starts there.

    torch rounds each piece of page-locked memory up to a power of two. A block is one already, at
    least `block`; larger parts come first and smaller ones fill what they leave.
    """
    blocks: list[int] = []
    used: list[int] = []
    places = [(0, 0)] * len(sizes)
    for part in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = sizes[part]
        fits = (i for i, there in enumerate(blocks) if there - used[i] >= size)
        place = next(fits, len(blocks))
        if place == len(blocks):
            blocks.append(max(block, 1 << (size - 1).bit_length()))
            used.append(0)
        places[part] = (place, used[place])
        used[place] += -(-size // _ALIGNMENT) * _ALIGNMENT
    return blocks, places
