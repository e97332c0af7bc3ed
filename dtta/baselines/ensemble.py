"""Naive ensemble: the average of the network's belief and the diffusion classifier's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """(p_θ(c | x) + p_φ(c | x)) / 2, the obvious way to use both models without adapting either.

    Args:
        first, second: two methods, image -> logits (N, L).
    """

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    @torch.no_grad()
    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> log of the mean belief (N, L)."""
        beliefs = [method(image, generator).softmax(dim=1) for method in (self.first, self.second)]
        return ((beliefs[0] + beliefs[1]) / 2).log()
