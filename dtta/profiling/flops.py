"""The floating-point operations of one call: a number that is the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def operations(method: nn.Module, image: Tensor, generator: torch.Generator | None = None) -> float:
    """Return the floating-point operations for each image (N, C, H, W) in [0, 1] of one call of a method.

    Counts convolutions, matrix products and attention, forward and backward, a multiply-add as two; not what is small
    in comparison (norms, activations, the optimizer).
    """
    with FlopCounterMode(display=False) as counter:
        method(image, generator)
    return counter.get_total_flops() / len(image)
