"""What one call costs in arithmetic: a number that is the same on every machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def operations(method: nn.Module, image: Tensor, generator: torch.Generator | None = None) -> float:
    """Floating-point operations for each image of one call: adaptation, if there is any, and answer.

    Convolutions, matrix products and attention are counted, forward and backward, a multiply-add as two. What is
    small beside them (norms, activations, the optimizer) is not.

    Args:
        method: any of ``dtta.methods``. image: (N, C, H, W) in [0, 1].
    """
    with FlopCounterMode(display=False) as counter:
        method(image, generator)
    return counter.get_total_flops() / len(image)
