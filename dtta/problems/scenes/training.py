"""What the recipes of both tasks share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dtta.core.diffusion import Diffusion
from dtta.problems.training.fit import fit as training

DATA = "12000 rendered scenes (dtta.problems.scenes, world 0), 32 x 32, half of them mirrored"
LICENCE = "Apache-2.0; the data is rendered by this package"


def denoising_loss(diffusion: Diffusion, image: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
    """The mean of Eq. 2 over a batch of images, with timesteps spread evenly over the range."""
    return training.denoising_loss(diffusion, diffusion.encode(image), condition, generator)


def distort(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, 3, H, W) as other cameras and hours would show them: contrast, exposure and colour of the light.

    The photometric distortion that segmentation networks are usually trained with, but wider. Half of the images
    stay as they are. It has no noise, no blur, no weather, no other texture or view.
    """
    u = torch.rand(5, len(image), 1, 1, 1, generator=generator)
    tint = torch.rand(len(image), 3, 1, 1, generator=generator)
    mean = image.mean((1, 2, 3), keepdim=True)
    contrast = 0.15 * (1.2 / 0.15) ** u[0]  # even steps are equal ratios
    level = mean * (1 - u[1]) + u[1] * u[2]  # the mean brightness moves towards a random one
    light = 1 - 0.6 * tint * u[3]
    changed = ((image - mean) * contrast + level) * light
    return torch.where(u[4] < 0.5, image, changed.clamp(0, 1))


def smooth_noise(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth random fields (N, 1, size, size) in [0, 1]."""
    coarse = torch.rand(count, 1, 4, 4, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
