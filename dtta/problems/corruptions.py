"""Common corruptions of an image, after ImageNet-C (Hendrycks & Dietterich, ICLR 2019, arXiv 1903.12261).

A corruption takes an image (C, H, W) in [0, 1], a generator and constants; its result may leave [0, 1], and
`apply_shift` clips it. Two tables give the constants for severities 1 to 5: `IMAGE_SHIFTS`, ImageNet-C's, with lengths
in pixels for a width of 224, scaled with the image's width; and `SMALL_IMAGE_SHIFTS`, for grey images of about 8 x 8
pixels, from hardly visible to hard for a person.

Of ImageNet-C's fifteen, frost is missing because it needs photographs of frost; glass blur because it exchanges
neighbouring pixels, and one pixel of a 32 x 32 image is seven of ImageNet-C's; elastic distortion because it moves
objects, so that maps would no longer be true. Snow has flakes of one pixel. Erasing is not part of ImageNet-C.
"""

from __future__ import annotations

import math
import tomllib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as T

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """A corruption, called with an image (C, H, W) in [0, 1], a severity and a generator.

    Args:
        function: (image, generator, constants by name) -> image.
        constants: by name, a value for each severity.
    """

    function: Callable[..., Tensor]
    constants: Mapping[str, Sequence]

    def __call__(self, image: Tensor, severity: int, generator: Generator) -> Tensor:
        constants = {name: values[severity - 1] for name, values in self.constants.items()}
        return self.function(image, generator, **constants)


def gaussian_noise(x: Tensor, g: Generator, deviation: float) -> Tensor:
    """Add Gaussian noise of one standard deviation everywhere, as in low light."""
    return x + deviation * torch.randn(x.shape, generator=g)


def shot_noise(x: Tensor, g: Generator, photons: float) -> Tensor:
    """Replace each value x by a Poisson count of mean x · photons, divided by photons."""
    return torch.poisson(x * photons, generator=g) / photons


def impulse_noise(x: Tensor, g: Generator, share: float) -> Tensor:
    """Set a share of the values to 0 or 1 (salt and pepper)."""
    hit = torch.rand(x.shape, generator=g) < share
    return torch.where(hit, (torch.rand(x.shape, generator=g) < 0.5).to(x), x)


def gaussian_blur(x: Tensor, g: Generator, sigma: float) -> Tensor:
    """Convolve with a Gaussian of standard deviation sigma (pixels), cut off at 7 x 7 pixels."""
    return T.gaussian_blur(x, [7, 7], [sigma, sigma])


def defocus_blur(x: Tensor, g: Generator, radius: float) -> Tensor:
    """Convolve with a disc, out of focus. At a width of 32 the mildest disc lies within one pixel: no change."""
    radius = radius * x.shape[-1] / 224
    half = math.ceil(radius)
    fine = torch.linspace(-half - 0.5, half + 0.5, 11 * (2 * half + 1))  # eleven samples per pixel: soft rims
    disc = (torch.hypot(fine[:, None], fine) <= max(radius, 0.3)).float()
    kernel = F.avg_pool2d(disc[None, None], 11)[0, 0]
    kernel = (kernel / kernel.sum()).expand(len(x), 1, *kernel.shape)
    padded = F.pad(x[None], [kernel.shape[-1] // 2] * 4, mode="reflect")
    return F.conv2d(padded, kernel, groups=len(x))[0]


def motion_blur(x: Tensor, g: Generator, length: float, width: float) -> Tensor:
    """Smear along a line within 45 degrees of the horizontal, as if the camera moved during the exposure."""
    return _smear(x, length, width, 90 * torch.rand((), generator=g).item() - 45)


def _smear(x: Tensor, length: float, width: float, degrees: float) -> Tensor:
    """Blur to one side along a line, with Gaussian weights; lengths in pixels at a width of 224."""
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


def zoom_blur(x: Tensor, g: Generator, most: float, step: float) -> Tensor:
    """Average the image and its enlargements by 1, 1 + step, ..., 1 + most, as if the camera moved forward."""
    count = len(np.arange(1, 1 + most, step))
    zoomed = [T.affine(x, 0, [0, 0], 1 + i * step, [0, 0], InterpolationMode.BILINEAR) for i in range(count)]
    return (x + sum(zoomed)) / (count + 1)


def snow(
    x: Tensor, g: Generator, mean: float, deviation: float, threshold: float, length: float, width: float, blend: float
) -> Tensor:
    """Whiten the image and add smeared flakes: Gaussian noise above a threshold, one pixel each."""
    flakes = mean + deviation * torch.randn(1, *x.shape[-2:], generator=g)
    flakes = torch.where(flakes < threshold, 0, flakes).clamp(0, 1)
    flakes = _smear(flakes, length, width, -45 - 90 * torch.rand((), generator=g).item())
    white = blend * x + (1 - blend) * torch.maximum(x, T.rgb_to_grayscale(x) * 1.5 + 0.5)
    return white + flakes + flakes.flip(-1, -2)


def fog(x: Tensor, g: Generator, strength: float, decay: float) -> Tensor:
    """Add a veil whose layers are weaker the finer they are, and rescale to the image's maximum."""
    sides = [n for n in (2, 4, 8, 16, 32, 64) if n <= x.shape[-1]]
    veil = _veil(x, g, {n: decay**i for i, n in enumerate(sides)})
    return (x + strength * veil) * x.max() / (x.max() + strength)


def coarse_fog(x: Tensor, g: Generator, strength: float) -> Tensor:
    """Add a veil of three coarse layers, for small images, and rescale as if the image's maximum were 1."""
    return (x + strength * _veil(x, g, {2: 2, 3: 3, 5: 5})) / (1 + strength)


def _veil(x: Tensor, g: Generator, layers: Mapping[int, float]) -> Tensor:
    """Return a smooth random field from 0 to 1; layers: side of a random grid -> divisor of its values."""
    shape = x.shape[-2:]
    veil = sum(T.resize(torch.rand(1, n, n, generator=g), shape, antialias=True) / k for n, k in layers.items())
    return (veil - veil.min()) / (veil.max() - veil.min())


def brightness(x: Tensor, g: Generator, amount: float) -> Tensor:
    """Raise the value (HSV) of each colour; black becomes grey."""
    value = x.amax(0, keepdim=True)
    raised = (value + amount).clamp(max=1)
    return torch.where(value > 0, x * raised / value.clamp(min=1e-6), raised)


def grey_brightness(x: Tensor, g: Generator, amount: float) -> Tensor:
    """Raise all grey levels: `brightness` for an image without colours."""
    return x + amount


def contrast(x: Tensor, g: Generator, factor: float) -> Tensor:
    """Scale the differences from each channel's mean."""
    mean = x.mean((1, 2), keepdim=True)
    return mean + factor * (x - mean)


def pixelate(x: Tensor, g: Generator, factor: float) -> Tensor:
    """Shrink to a fraction of the sides, then enlarge, both with a box filter, as 8-bit images."""
    sides = [max(1, int(n * factor)) for n in reversed(x.shape[-2:])]
    image = _to_pil(x)
    return _from_pil(image.resize(sides, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX))


def pixelate_to(x: Tensor, g: Generator, side: int) -> Tensor:
    """Shrink to side x side pixels (bilinear), then enlarge with the nearest pixel: no rounding to 8 bits."""
    small = T.resize(x, [side, side], antialias=True)
    return T.resize(small, x.shape[-2:], interpolation=InterpolationMode.NEAREST)


def jpeg(x: Tensor, g: Generator, quality: int) -> Tensor:
    """Compress and decompress with JPEG."""
    file = BytesIO()
    _to_pil(x).save(file, "JPEG", quality=quality)
    return _from_pil(Image.open(file))


def erasing(x: Tensor, g: Generator, share: float, grey: float) -> Tensor:
    """Paint a square grey, anywhere in the image; share: its side as a fraction of the image's width."""
    side = round(share * x.shape[-1])
    top, left = (int(torch.randint(n - side + 1, (), generator=g)) for n in x.shape[-2:])
    return T.erase(x, top, left, side, side, torch.tensor(grey))


def _to_pil(x: Tensor) -> Image.Image:
    return T.to_pil_image((x * 255).round().to(torch.uint8))


def _from_pil(image: Image.Image) -> Tensor:
    return T.to_dtype(T.pil_to_tensor(image), torch.float32, scale=True)


_FUNCTIONS = (
    gaussian_noise, shot_noise, impulse_noise, gaussian_blur, defocus_blur, motion_blur, zoom_blur, snow, fog,
    coarse_fog, brightness, grey_brightness, contrast, pixelate, pixelate_to, jpeg, erasing,
)  # fmt: skip


def _read_constants(table: str) -> dict[str, Corruption]:
    """Return the corruptions of a table in corruptions.toml by name."""
    functions = {function.__name__: function for function in _FUNCTIONS}
    entries = tomllib.loads(Path(__file__).with_name("corruptions.toml").read_text(encoding="utf-8"))[table]
    return {name: Corruption(functions[entry.pop("function", name)], entry) for name, entry in entries.items()}


IMAGE_SHIFTS = _read_constants("image")
SMALL_IMAGE_SHIFTS = _read_constants("small_image")


def apply_shift(
    image: Tensor, name: str, severity: int, seed: int, index: int, shifts: Mapping[str, Callable]
) -> Tensor:
    """Return an image (C, H, W) in [0, 1] under a shift, clipped to [0, 1]; under "clean", the image itself.

    The randomness depends only on seed, name, severity and the image's index, so any subset of a data set, in any
    order, is shifted in the same way. `shifts`: name -> a function of image, severity and generator.
    Raises ValueError: see `check_severity`.
    """
    check_severity(name, severity, shifts)
    if name == "clean":
        return image
    generator = Generator().manual_seed(shift_key(seed, name, severity, index))
    return shifts[name](image, severity, generator).clamp(0, 1)


def check_severity(name: str, severity: int, names: Iterable[str]) -> None:
    """Raise ValueError unless `name` is "clean", or is one of `names` and the severity is 1, 2, 3, 4 or 5."""
    if name == "clean":
        return
    if name not in names:
        raise ValueError(f"unknown shift {name!r}; choose from clean, {', '.join(names)}")
    if not isinstance(severity, Integral) or severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, not {severity!r}")


def shift_key(seed: int, name: str, severity: int, index: int) -> int:
    """Return the seed of a shift's random generator."""
    return zlib.crc32(f"{seed}/{name}/{severity}/{index}".encode())
