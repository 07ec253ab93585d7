"""All randomness is keyed by what it is for, never by how far some generator has advanced.

Whoever resumes needs no generator state: the same key gives the same numbers, on any rank and in
any order (design, section 4).
"""

import hashlib

import numpy as np
import torch


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of the key and on nothing else."""
    text = "\x1f".join(str(part) for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def numpy_generator(*key: int | str) -> np.random.Generator:
    """A counter-based generator for the key."""
    return np.random.Generator(np.random.Philox(derive_seed(*key)))


def torch_generator(*key: int | str) -> torch.Generator:
    """A CPU generator for the key."""
    return torch.Generator().manual_seed(derive_seed(*key))
