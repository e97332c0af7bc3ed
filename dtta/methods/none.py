"""No adaptation: the task network as it was trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtta.core.adapter import check_image, take_logits
from dtta.core.problem import Problem


class NoAdaptation(nn.Module):
    """f_θ(x), with the same checks of the image as the other methods."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.eval()

    @torch.no_grad()
    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> the network's output."""
        check_image(image, self.model)
        return take_logits(self.model, image, self.model(image))

    predict = forward


def build(problem: Problem) -> NoAdaptation:
    """Build the task network as it is."""
    return NoAdaptation(problem.model)
