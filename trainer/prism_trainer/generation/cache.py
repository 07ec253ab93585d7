"""The key-value cache of one batch: as long as its text needs, and no larger than memory allows."""

import sys

import torch
from torch import Tensor
from torch.nn.functional import pad

from prism_trainer.generation.weights import DecoderWeights

_MIN_GROWTH_SLOTS = 64
_USABLE_SHARE = 0.8
"""Of a GPU's free memory; the rest is for prefill, logits and one layer's copy while growing."""


def grown(slots: int, limit: int) -> int:
    """Slots after one growth: a quarter more, at least 64, at most `limit`.

    So the cache is copied once in 64 steps or more, each of which reads all of it.
    """
    return min(limit, slots + max(_MIN_GROWTH_SLOTS, slots // 4))


class KeyValueCache:
    """One tensor per layer, [2 (keys, values), sequences, kv_heads, slots, dim]."""

    def __init__(
        self, weights: DecoderWeights, sequences: int, prompt_slots: int, limit: int
    ) -> None:
        """Zeros for prompts of up to `prompt_slots` tokens; text may grow to `limit` slots."""
        self._limit = limit
        shape = (2, sequences, weights.kv_heads, grown(prompt_slots, limit), weights.dim)
        self.layers = [weights.head.new_zeros(shape) for _ in weights.layers]

    @property
    def slots(self) -> int:
        """Tokens that each sequence has room for."""
        return self.layers[0].shape[3]

    def make_room(self, slot: int) -> None:
        """Grow if there is no such slot yet."""
        if slot >= self.slots:
            more = grown(self.slots, self._limit) - self.slots
            # One layer after the other: only one exists twice at any time.
            for i in range(len(self.layers)):
                self.layers[i] = pad(self.layers[i], (0, 0, 0, more))

    def keep(self, rows: Tensor) -> None:
        """Drop all sequences but these."""
        for i in range(len(self.layers)):
            self.layers[i] = self.layers[i].index_select(1, rows)


def bytes_per_sequence(weights: DecoderWeights, slots: int) -> int:
    """Size of the cache of one sequence."""
    per_slot = 2 * len(weights.layers) * weights.kv_heads * weights.dim
    return per_slot * slots * weights.head.element_size()


def usable_bytes(device: torch.device) -> int:
    """Memory that caches may take on a GPU; on a CPU no limit is known."""
    if device.type != "cuda":
        return sys.maxsize
    free, _ = torch.cuda.mem_get_info(device)
    # What torch's allocator holds without using it is free too.
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(_USABLE_SHARE * (free + held))
