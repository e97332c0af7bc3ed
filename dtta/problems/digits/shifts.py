"""Shifts of the digits: the corruptions of small grey images, rotation, shear and erasing, at severities 1 to 5."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as T

from dtta.problems.corruptions import SMALL_IMAGE_SHIFTS, Corruption, erasing


def rotation(x: Tensor, g: Generator, degrees: float) -> Tensor:
    """Rotate to the left or to the right."""
    return T.rotate(x, _sign(g) * degrees, interpolation=InterpolationMode.BILINEAR)


def shear(x: Tensor, g: Generator, degrees: float) -> Tensor:
    """Slant to the left or to the right."""
    return T.affine(x, 0, [0, 0], 1.0, [_sign(g) * degrees, 0], interpolation=InterpolationMode.BILINEAR)


def _sign(g: Generator) -> int:
    return 1 if torch.rand((), generator=g) < 0.5 else -1


SHIFTS: dict[str, Corruption] = SMALL_IMAGE_SHIFTS | {
    "rotation": Corruption(rotation, dict(degrees=(12, 20, 28, 38, 50))),
    "shear": Corruption(shear, dict(degrees=(12, 22, 30, 38, 46))),
    "erasing": Corruption(erasing, dict(share=(0.25, 0.375, 0.375, 0.5, 0.625), grey=(0.25, 0.25, 0.5, 0.5, 0.5))),
}
