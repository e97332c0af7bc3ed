"""Data augmentation and card entries that the recipes of the scenes share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

DATA = "12000 rendered scenes (dtta.problems.scenes, world 0), 32 x 32, half of them mirrored"
LICENCE = "Apache-2.0; the data is rendered by this package"


def distort(image: Tensor, generator: torch.Generator) -> Tensor:
    """Change the contrast, exposure and colour of the light of half of the images (N, 3, H, W).

    The photometric distortion with which segmentation networks are usually trained, with wider ranges: no noise, blur
    or weather, and no change of texture or view.
    """
    u = torch.rand(5, len(image), 1, 1, 1, generator=generator)
    tint = torch.rand(len(image), 3, 1, 1, generator=generator)
    mean = image.mean((1, 2, 3), keepdim=True)
    contrast = 0.15 * (1.2 / 0.15) ** u[0]  # log-uniform
    level = mean * (1 - u[1]) + u[1] * u[2]  # a mixture of the mean brightness and a random one
    light = 1 - 0.6 * tint * u[3]
    changed = ((image - mean) * contrast + level) * light
    return torch.where(u[4] < 0.5, image, changed.clamp(0, 1))


def smooth_noise(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return smooth random fields (N, 1, size, size) in [0, 1]."""
    coarse = torch.rand(count, 1, 4, 4, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
