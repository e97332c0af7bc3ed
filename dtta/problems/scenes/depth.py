"""Depth of the scenes: an encoder-decoder and a GLPN, and a diffusion model conditioned on depth maps."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from dtta.core.conditions import DepthMap
from dtta.core.diffusion import ConcatUNet
from dtta.core.problem import Problem
from dtta.problems.chosen import chosen
from dtta.problems.metrics import DEPTH_METRICS, depth_errors
from dtta.problems.scenes import data, models
from dtta.problems.scenes.data import NEAR, SIZE
from dtta.problems.scenes.shifts import SHIFTS
from dtta.problems.scenes.training import DATA, LICENCE, distort, smooth_noise
from dtta.problems.scenes.world import FAR
from dtta.problems.training import weights
from dtta.problems.training.fit import denoising_loss, depth_loss
from dtta.problems.training.recipes import Recipe, map_losses

condition = DepthMap(NEAR, FAR, scale="log")


def network_loss(model: nn.Module, generator: torch.Generator, size: int = 32) -> Tensor:
    """Return `depth_loss` on clean scenes."""
    image, _, depth = data.batch(size, generator)
    return depth_loss(model(image), depth)


def disturb(c: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, scale and add noise to half of the depth conditions (N, 1, H, W) in [-1, 1], like a network's errors."""
    N, size = len(c), c.shape[-1]
    width = 0.3 + 1.2 * torch.rand((), generator=generator).item()
    blurred = gaussian_blur(c, [7, 7], [width, width])
    share = torch.rand(N, 1, 1, 1, generator=generator)
    scale = 1 + 0.15 * (2 * torch.rand(N, 1, 1, 1, generator=generator) - 1)
    shift = 0.1 * (2 * torch.rand(N, 1, 1, 1, generator=generator) - 1)
    waves = 0.4 * torch.rand(N, 1, 1, 1, generator=generator) ** 2 * (smooth_noise(N, size, generator) - 0.5)
    grain = 0.03 * torch.rand(N, 1, 1, 1, generator=generator) * torch.randn(c.shape, generator=generator)
    disturbed = (c + share * (blurred - c)) * scale + shift + waves + grain
    same = torch.rand(N, 1, 1, 1, generator=generator) < 0.5
    return torch.where(same, c, disturbed.clamp(-1, 1))


def diffusion_loss(diffusion: ConcatUNet, generator: torch.Generator, size: int = 64) -> Tensor:
    """Return the noise-prediction loss under disturbed depth maps, on scenes of which half are distorted."""
    image, _, depth = data.batch(size, generator)
    z0 = diffusion.encode(distort(image, generator))
    return denoising_loss(diffusion, z0, disturb(condition(depth), generator), generator)


NETWORKS = {"densedepth": models.densedepth, "glpn": models.glpn}
DIFFUSIONS = {"unet": models.unet_depth}


def problem(network: str | None = None, diffusion: str | None = None) -> Problem:
    """Build the problem of depth, `NEAR` to `FAR` scene units; models of `NETWORKS` and `DIFFUSIONS` (None: first)."""
    return Problem(
        name="scenes-depth",
        task="depth",
        classes=(),
        model=weights.ready("scenes-depth", NETWORKS, network),
        diffusion=weights.ready("scenes-depth", DIFFUSIONS, diffusion),
        condition=condition,
        draw=partial(data.shifted, "depth"),
        sizes=data.SIZES,
        shape=(3, SIZE, SIZE),
        shifts=SHIFTS,
        metric="SSIM",
        score=lambda output, target: errors(output, target)["SSIM"],
        sums=errors,
        metrics=DEPTH_METRICS,
        settings=chosen("scenes-depth", network, diffusion),
    )


def errors(output: Tensor, target: Tensor) -> dict[str, float]:
    """Return the metrics of one image."""
    return depth_errors(output, target, NEAR, FAR)


@torch.no_grad()
def scores(model: nn.Module) -> dict[str, float]:
    """Return the validation scores of a model card, on 300 clean scenes."""
    scenes = data.sample("validation", 300)
    x, depth = scenes["image"], scenes["depth"]
    if not isinstance(model, ConcatUNet):
        each = [errors(model(a[None]), b) for a, b in zip(x, depth, strict=True)]
        sums = {name: sum(e[name] for e in each) for name in each[0]} | {"images": len(each)}
        return {name: round(DEPTH_METRICS[name](sums).item(), 3) for name in DEPTH_METRICS}
    maps = {"true": depth, "other scene's": depth.roll(1, 0), "flat": torch.full_like(depth, FAR)}
    return map_losses(model, x, {f"the {name} map": condition(d) for name, d in maps.items()})


_recipe = partial(Recipe, scores=scores, data=DATA, licence=LICENCE, lr=1e-3)
RECIPES = {
    "densedepth": _recipe(models.densedepth, network_loss, steps=3000, weight_decay=0.05),
    "glpn": _recipe(models.glpn, network_loss, steps=2500, weight_decay=0.05),
    "unet": _recipe(models.unet_depth, diffusion_loss, steps=3600),
}
