"""Test-time augmentation: the mean of the outputs for several views of the image, mapped back to the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtta.core.adapter import check_image, take_logits
from dtta.core.problem import Problem


class AugmentationMean(nn.Module):
    """The standard for dense prediction: average the outputs for mirrored and resized views.

    `model`: image -> logits (N, L, H, W), or a depth map (N, 1, H, W). `probabilities`: average softmax probabilities
    (and return their logarithm), or the output itself. `scales`: sizes of the views relative to the image. Depths
    change with the scale; leave it at 1 for depth, as DenseDepth does.
    """

    def __init__(self, model: nn.Module, scales: Sequence[float] = (1.0,), probabilities: bool = True):
        super().__init__()
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"scales must be positive numbers, not {scales!r}")
        self.model, self.scales, self.probabilities = model.eval(), tuple(scales), probabilities

    @torch.no_grad()
    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> the mean output, in the form of the model's."""
        check_image(image, self.model)
        answers = [take_logits(self.model, view, self.model(view)) for view in views(image, self.scales)]
        if self.probabilities:
            answers = [answer.softmax(dim=1) for answer in answers]
        mean = torch.stack([back(a, i, image.shape[-2:]) for i, a in enumerate(answers)]).mean(0)
        return mean.clamp(min=1e-12).log() if self.probabilities else mean


def views(image: Tensor, scales: Sequence[float] = (1.0,)) -> list[Tensor]:
    """Return the image at each scale, unchanged and mirrored in turn. Sides are rounded to multiples of eight."""
    result = []
    for scale in scales:
        sides = image.shape[-2:] if scale == 1 else [max(8, 8 * round(n * scale / 8)) for n in image.shape[-2:]]
        view = image if scale == 1 else F.interpolate(image, sides, mode="bilinear", antialias=True).clamp(0, 1)
        result += [view, view.flip(-1)]
    return result


def back(answer: Tensor, number: int, size: Sequence[int]) -> Tensor:
    """Map the output for view `number` back to the image."""
    answer = answer.flip(-1) if number % 2 else answer
    return answer if answer.shape[-2:] == tuple(size) else F.interpolate(answer, list(size), mode="bilinear")


def build(problem: Problem, *, scales: Sequence[float] | float = (1.0,)) -> AugmentationMean:
    """Build test-time augmentation by mirroring and, for segmentation, scales."""
    scales = (scales,) if isinstance(scales, (int, float)) else scales
    return AugmentationMean(problem.model, scales, probabilities=problem.task == "segmentation")
