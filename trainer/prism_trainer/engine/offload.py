"""Optimizer states that lie in host memory and are on the GPU only while they are stepped.

Where two models do not fit on a GPU together with their states (a policy and its discriminator),
this leaves the room to whichever is being computed. Copies run on a stream of their own, from and
to page-locked memory, beside whatever the GPU computes meanwhile.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_MOMENTS = ("exp_avg", "exp_avg_sq")
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
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for parameter, state in states.items():
                for key in _MOMENTS:
                    moment: Tensor = state[key]
                    host = self._place(parameter, key, moment)
                    host.copy_(moment, non_blocking=True)
                    moment.record_stream(self._stream)
                    state[key] = host

    def _place(self, parameter: Tensor, key: str, moment: Tensor) -> Tensor:
        if (parameter, key) not in self._host:
            place = torch.empty(moment.shape, dtype=moment.dtype, pin_memory=True)
            self._host[parameter, key] = place
        return self._host[parameter, key]

    def wait(self) -> None:
        """Until what was put away is there to be read."""
        if self._stream is not None:
            self._stream.synchronize()
