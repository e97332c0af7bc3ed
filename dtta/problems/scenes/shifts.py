"""Shifts of the scenes: ImageNet-C's corruptions on the image, and shifts that only a renderer can make.

The corruptions follow Hendrycks & Dietterich (ICLR 2019) and keep their constants. Lengths in pixels
are scaled from 224 to the image's width. Three of theirs are left out: glass blur swaps neighbouring
pixels, and one pixel here is seven of theirs; elastic distortion moves things, so the true maps would no
longer be true, and so would the digits' shear; frost needs photographs of frost. Snow has flakes of one
pixel, for theirs would be smaller. The digits' rotation is a roll of the camera here, with true maps, and
their erasing stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as T

from dtta.problems.digits.shifts import apply_shift, check_severity, shift_key
from dtta.problems.scenes.world import UNSEEN_TEXTURES, Scene

# --- on the image (3, H, W) ---------------------------------------------------------------------------


def gaussian_noise(x: Tensor, s: int, g: Generator) -> Tensor:
    """The same noise everywhere, as in low light."""
    return x + (0.08, 0.12, 0.18, 0.26, 0.38)[s - 1] * torch.randn(x.shape, generator=g)


def shot_noise(x: Tensor, s: int, g: Generator) -> Tensor:
    """Few photons: Poisson noise."""
    photons = (60, 25, 12, 5, 3)[s - 1]
    return torch.poisson(x * photons, generator=g) / photons


def impulse_noise(x: Tensor, s: int, g: Generator) -> Tensor:
    """A share of the values turns to nothing or all: salt and pepper."""
    hit = torch.rand(x.shape, generator=g) < (0.03, 0.06, 0.09, 0.17, 0.27)[s - 1]
    return torch.where(hit, (torch.rand(x.shape, generator=g) < 0.5).to(x), x)


def defocus_blur(x: Tensor, s: int, g: Generator) -> Tensor:
    """Out of focus: a disc instead of a point. At 32 pixels the mildest disc is smaller than a pixel: no change."""
    radius = (3, 4, 6, 8, 10)[s - 1] * x.shape[-1] / 224
    half = math.ceil(radius)
    fine = torch.linspace(-half - 0.5, half + 0.5, 11 * (2 * half + 1))  # eleven samples a pixel: soft rims
    disc = (torch.hypot(fine[:, None], fine) <= max(radius, 0.3)).float()
    return _filter(x, F.avg_pool2d(disc[None, None], 11)[0, 0])


def motion_blur(x: Tensor, s: int, g: Generator) -> Tensor:
    """The camera moved while the shutter was open."""
    length, width = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[s - 1]
    return _smear(x, length, width, 90 * torch.rand((), generator=g).item() - 45)


def zoom_blur(x: Tensor, s: int, g: Generator) -> Tensor:
    """The camera moved forward while the shutter was open."""
    most, step = ((0.11, 0.01), (0.16, 0.01), (0.21, 0.02), (0.26, 0.02), (0.31, 0.03))[s - 1]
    steps = len(np.arange(1, 1 + most, step))
    zoomed = [T.affine(x, 0, [0, 0], 1 + i * step, [0, 0], InterpolationMode.BILINEAR) for i in range(steps)]
    return (x + sum(zoomed)) / (steps + 1)


def snow(x: Tensor, s: int, g: Generator) -> Tensor:
    """White flakes falling, and a whitish light."""
    mean, spread, threshold, length, width, blend = (
        (0.1, 0.3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 0.85, 12, 12, 0.55),
    )[s - 1]
    flakes = mean + spread * torch.randn(1, *x.shape[-2:], generator=g)  # a flake is a pixel: no zoom
    flakes = torch.where(flakes < threshold, 0, flakes).clamp(0, 1)
    flakes = _smear(flakes, length, width, -45 - 90 * torch.rand((), generator=g).item())
    white = blend * x + (1 - blend) * torch.maximum(x, T.rgb_to_grayscale(x) * 1.5 + 0.5)
    return white + flakes + flakes.flip(-1, -2)


def fog(x: Tensor, s: int, g: Generator) -> Tensor:
    """A cloudy veil over the picture, as thick near as far (see `depth_fog`)."""
    strength, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[s - 1]
    sides = [n for n in (2, 4, 8, 16, 32, 64) if n <= x.shape[-1]]
    layers = [
        T.resize(torch.rand(1, n, n, generator=g), x.shape[-2:], antialias=True) / decay**i for i, n in enumerate(sides)
    ]
    veil = sum(layers)
    veil = (veil - veil.min()) / (veil.max() - veil.min())
    return (x + strength * veil) * x.max() / (x.max() + strength)


def brightness(x: Tensor, s: int, g: Generator) -> Tensor:
    """Overexposed: the value of the colour (HSV) raised."""
    value = x.amax(0, keepdim=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[s - 1]).clamp(max=1)
    return torch.where(value > 0, x * raised / value.clamp(min=1e-6), raised)  # black has no colour: it turns grey


def contrast(x: Tensor, s: int, g: Generator) -> Tensor:
    """Colours pulled towards their mean."""
    mean = x.mean((1, 2), keepdim=True)
    return mean + (0.4, 0.3, 0.2, 0.1, 0.05)[s - 1] * (x - mean)


def pixelate(x: Tensor, s: int, g: Generator) -> Tensor:
    """Shrunk, then enlarged without smoothing."""
    sides = [max(1, int(n * (0.6, 0.5, 0.4, 0.3, 0.25)[s - 1])) for n in reversed(x.shape[-2:])]
    picture = _picture(x)
    return _tensor(picture.resize(sides, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX))


def jpeg(x: Tensor, s: int, g: Generator) -> Tensor:
    """Compressed at low quality."""
    file = BytesIO()
    _picture(x).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[s - 1])
    return _tensor(Image.open(file))


def erasing(x: Tensor, s: int, g: Generator) -> Tensor:
    """A square of the picture is missing."""
    side = round((0.15, 0.2, 0.25, 0.32, 0.4)[s - 1] * x.shape[-1])
    top, left = (int(torch.randint(n - side + 1, (), generator=g)) for n in x.shape[-2:])
    return T.erase(x, top, left, side, side, torch.full((3, 1, 1), 0.5))


def _picture(x: Tensor) -> Image.Image:
    return T.to_pil_image((x * 255).round().to(torch.uint8))


def _tensor(picture: Image.Image) -> Tensor:
    return T.to_dtype(T.pil_to_tensor(picture), torch.float32, scale=True)


def _filter(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel convolved with a kernel of odd sides, edges mirrored."""
    kernel = (kernel / kernel.sum()).expand(len(x), 1, *kernel.shape)
    half = kernel.shape[-1] // 2
    return F.conv2d(F.pad(x[None], [half] * 4, mode="reflect"), kernel, groups=len(x))[0]


def _smear(x: Tensor, length: float, width: float, degrees: float) -> Tensor:
    """Blur to one side along a line, falling off like a Gaussian; lengths in pixels of 224."""
    scale = x.shape[-1] / 224
    along = torch.linspace(0, length * scale, 16)
    weight = torch.exp(-0.5 * (along / (width * scale)) ** 2)
    a = math.radians(degrees)
    grid = F.affine_grid(torch.eye(2, 3)[None], [1, 1, *x.shape[-2:]], align_corners=False)
    total = torch.zeros_like(x)
    for d, w in zip(along, weight / weight.sum(), strict=True):
        move = 2 * d * torch.tensor([math.cos(a) / x.shape[-1], math.sin(a) / x.shape[-2]])
        total += w * F.grid_sample(x[None], grid + move, padding_mode="reflection", align_corners=False)[0]
    return total


# --- on the world -------------------------------------------------------------------------------------


def night(scene: Scene, s: int, rng: Random) -> Scene:
    """The sun is a weak moon and the sky is dark."""
    dark = (0.35, 0.25, 0.17, 0.12, 0.085)[s - 1]
    return replace(
        scene,
        sun=(dark * 1.6, dark * 1.9, dark * 2.6),
        sky=(dark * 0.10, dark * 0.16, dark * 0.40),
        horizon=(dark * 0.22, dark * 0.28, dark * 0.50),
    )


def coloured_light(scene: Scene, s: int, rng: Random) -> Scene:
    """Sun and sky through a coloured filter."""
    keep = (0.6, 0.45, 0.3, 0.18, 0.08)[s - 1]
    filters = ((1, keep, keep), (keep, 1, keep), (keep, keep, 1), (1, keep, 1), (1, 0.8, keep), (keep, 1, 1))
    tint = rng.choice(filters)
    return replace(
        scene,
        **{n: tuple(c * k for c, k in zip(getattr(scene, n), tint, strict=True)) for n in ("sun", "sky", "horizon")},
    )


def depth_fog(scene: Scene, s: int, rng: Random) -> Scene:
    """Fog that grows with true distance: light lost in it, and the fog's own light instead."""
    return replace(scene, haze=(0.05, 0.09, 0.14, 0.2, 0.3)[s - 1])


def unseen_textures(scene: Scene, s: int, rng: Random) -> Scene:
    """A ground with a pattern that no training scene has, in colours further and further apart."""
    gap = (0.05, 0.12, 0.2, 0.3, 0.4)[s - 1]
    middle = [sum(pair) / 2 for pair in zip(*scene.ground, strict=True)]
    tint = [rng.uniform(-1, 1) for _ in middle]
    ground = tuple(
        tuple(min(0.95, max(0.02, m + sign * gap * (1 + t))) for m, t in zip(middle, tint, strict=True))
        for sign in (1, -1)
    )
    return replace(scene, texture=rng.choice(UNSEEN_TEXTURES), ground=ground)


def camera_height(scene: Scene, s: int, rng: Random) -> Scene:
    """The camera looks down from higher than ever in training (2 units); it keeps its distance on the ground."""
    return replace(scene, height=(2.3, 2.7, 3.2, 3.9, 4.8)[s - 1])


def camera_roll(scene: Scene, s: int, rng: Random) -> Scene:
    """The camera is held aslant."""
    return replace(scene, roll=rng.choice((-1, 1)) * (6, 12, 18, 26, 35)[s - 1])


IMAGE_SHIFTS: dict[str, Callable[[Tensor, int, Generator], Tensor]] = {
    f.__name__: f
    for f in (
        gaussian_noise, shot_noise, impulse_noise, defocus_blur, motion_blur, zoom_blur, snow, fog, brightness,
        contrast, pixelate, jpeg, erasing,
    )
}  # fmt: skip
WORLD_SHIFTS: dict[str, Callable[[Scene, int, Random], Scene]] = {
    f.__name__: f for f in (night, coloured_light, depth_fog, unseen_textures, camera_height, camera_roll)
}
SHIFTS = (*IMAGE_SHIFTS, *WORLD_SHIFTS)


def shift_scene(scene: Scene, name: str, severity: int, seed: int = 0, index: int = 0) -> Scene:
    """The scene under a shift of the world; under any other shift, the scene as it is.

    Raises:
        ValueError: unknown name or severity.
    """
    check_severity(name, severity, SHIFTS)
    if name not in WORLD_SHIFTS:
        return scene
    return WORLD_SHIFTS[name](scene, severity, Random(shift_key(seed, name, severity, index)))


def shift_image(image: Tensor, name: str, severity: int, seed: int = 0, index: int = 0) -> Tensor:
    """The image (3, H, W) in [0, 1] under a shift of the image; under any other shift, the image as it is.

    Raises:
        ValueError: unknown name or severity.
    """
    check_severity(name, severity, SHIFTS)
    return apply_shift(image, name, severity, seed, index, IMAGE_SHIFTS) if name in IMAGE_SHIFTS else image
