"""The variant of an assignment: one seed from which its checks, hidden tests and experiment draw their data.

The first code cell of an assignment calls ``check.variant(0)``; ``dtta course build --seed N`` changes that number.
"""

from __future__ import annotations

import torch
from torch import Tensor

_seed = 0


def variant(seed: int) -> int:
    """Set the seed of all data drawn from here on, and return it."""
    global _seed
    _seed = int(seed)
    return _seed


def generator(k: int = 0) -> torch.Generator:
    """Return generator number `k` of this variant."""
    return torch.Generator().manual_seed(10_000 * _seed + k)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normal numbers of a shape from generator number `seed` of this variant."""
    return torch.randn(shape, generator=generator(seed))


def numbers(size: int, count: int) -> list[int]:
    """Choose `count` different image numbers below `size`, in the order in which this variant draws them."""
    return torch.randperm(size, generator=generator())[:count].tolist()
