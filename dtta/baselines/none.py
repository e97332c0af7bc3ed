"""No adaptation: the task network as it was trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtta.adapt import check_image


class NoAdaptation(nn.Module):
    """f_θ(x), with the same checks at the door as the other methods."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.eval()

    @torch.no_grad()
    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> the network's output."""
        check_image(image)
        return self.model(image)

    recall = forward
