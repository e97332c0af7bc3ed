"""Test-time shifts: common corruptions (Hendrycks & Dietterich 2019) at severities 1 to 5.

A shift is a function of one image, a severity and a generator. The families are ImageNet-C's where
they make sense on a small grey image, with rotation, shear and erasing added; the strengths are
set for 8 x 8 pixels, so that severity 1 is hardly seen and severity 5 is hard for a person.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from numbers import Integral

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as T

SEVERITIES = (1, 2, 3, 4, 5)


def _sign(generator: torch.Generator) -> int:
    return 1 if torch.rand((), generator=generator) < 0.5 else -1


def gaussian_noise(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """Additive noise of the same strength everywhere, as in low light."""
    return x + (0.15, 0.25, 0.35, 0.5, 0.65)[s - 1] * torch.randn(x.shape, generator=g)


def shot_noise(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """Poisson noise of few photons: the bright parts are the noisy ones."""
    photons = (16, 8, 4, 2, 1)[s - 1]
    return torch.poisson(x * photons, generator=g) / photons


def impulse_noise(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """A share of the pixels turns black or white."""
    share = (0.05, 0.1, 0.18, 0.27, 0.38)[s - 1]
    hit = torch.rand(x.shape, generator=g) < share
    return torch.where(hit, (torch.rand(x.shape, generator=g) < 0.5).to(x), x)


def blur(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """Gaussian blur, out of focus."""
    return T.gaussian_blur(x, [7, 7], [(0.5, 0.7, 0.9, 1.15, 1.4)[s - 1]] * 2)


def contrast(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """Grey levels pulled towards their mean."""
    return x.mean() + (0.75, 0.6, 0.45, 0.3, 0.2)[s - 1] * (x - x.mean())


def brightness(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """All grey levels raised, the brightest cut off."""
    return x + (0.1, 0.2, 0.3, 0.4, 0.5)[s - 1]


def fog(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """A smooth random veil added, and the range rescaled, as in ImageNet-C."""
    strength = (0.4, 0.7, 1.0, 1.5, 2.0)[s - 1]
    octaves = [T.resize(torch.rand(1, n, n, generator=g), x.shape[-2:], antialias=True) / n for n in (2, 3, 5)]
    veil = sum(octaves)
    veil = (veil - veil.min()) / (veil.max() - veil.min())
    return (x + strength * veil) / (1 + strength)


def pixelate(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """Shrunk, then enlarged without smoothing."""
    small = T.resize(x, [(7, 6, 5, 4, 3)[s - 1]] * 2, antialias=True)
    return T.resize(small, x.shape[-2:], interpolation=InterpolationMode.NEAREST)


def jpeg(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """Compressed at low quality."""
    quality = (30, 18, 10, 5, 2)[s - 1]
    file = BytesIO()
    T.to_pil_image((x * 255).round().to(torch.uint8)).save(file, "JPEG", quality=quality)
    return T.to_dtype(T.pil_to_tensor(Image.open(file)), torch.float32, scale=True)


def rotation(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """Turned, to the left or to the right."""
    angle = _sign(g) * (12, 20, 28, 38, 50)[s - 1]
    return T.rotate(x, angle, interpolation=InterpolationMode.BILINEAR)


def shear(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """Slanted, to the left or to the right."""
    angle = _sign(g) * (12, 22, 30, 38, 46)[s - 1]
    return T.affine(x, 0, [0, 0], 1.0, [angle, 0], interpolation=InterpolationMode.BILINEAR)


def erasing(x: Tensor, s: int, g: torch.Generator) -> Tensor:
    """A square of the image is missing (grey)."""
    side = (2, 3, 3, 4, 5)[s - 1]
    top, left = (int(torch.randint(n - side + 1, (), generator=g)) for n in x.shape[-2:])
    return T.erase(x, top, left, side, side, torch.tensor((0.25, 0.25, 0.5, 0.5, 0.5)[s - 1]))


SHIFTS = {
    f.__name__: f
    for f in (
        gaussian_noise, shot_noise, impulse_noise, blur, contrast, brightness,
        fog, pixelate, jpeg, rotation, shear, erasing,
    )
}  # fmt: skip


def apply_shift(
    image: Tensor, name: str, severity: int, seed: int = 0, index: int = 0, families: Mapping[str, Callable] = SHIFTS
) -> Tensor:
    """One image (C, H, W) in [0, 1] under a shift, in [0, 1] again.

    The randomness depends on seed, name, severity and the image's `index` alone, so any subset of a data set, in
    any order, is shifted alike. "clean" returns the image as it is.

    Args:
        families: name -> a function of image, severity and generator.

    Raises:
        ValueError: unknown name or severity.
    """
    check_severity(name, severity, families)
    if name == "clean":
        return image
    generator = torch.Generator().manual_seed(shift_key(seed, name, severity, index))
    return families[name](image, severity, generator).clamp(0, 1)


def check_severity(name: str, severity: int, known: Iterable[str]) -> None:
    """Raise ValueError unless the name is "clean" or one of the known, and the severity 1, 2, 3, 4 or 5."""
    if name == "clean":
        return
    if name not in known:
        raise ValueError(f"unknown shift {name!r}; choose from clean, {', '.join(known)}")
    if not isinstance(severity, Integral) or severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, not {severity!r}")


def shift_key(seed: int, name: str, severity: int, index: int) -> int:
    """The seed of a shift's randomness: of these four alone, so that any subset in any order is shifted alike."""
    return zlib.crc32(f"{seed}/{name}/{severity}/{index}".encode())
