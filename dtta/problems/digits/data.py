"""scikit-learn's 8 x 8 handwritten digits: splits, shifted images and training batches."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dtta.problems.corruptions import apply_shift
from dtta.problems.digits.shifts import SHIFTS

CLASSES = tuple(str(digit) for digit in range(10))
SIZE = 8
SPLITS = {"train": (0, 1000), "validation": (1000, 1297), "test": (1297, 1797)}  # of a permutation, seed 0


@cache
def split(name: str) -> tuple[Tensor, Tensor]:
    """Return the images (N, 1, 8, 8) in [0, 1] and labels (N,) of a split. Raises ValueError: unknown split."""
    if name not in SPLITS:
        raise ValueError(f"unknown split {name!r}; choose from {', '.join(SPLITS)}")
    folder = Path(find_spec("sklearn").origin).parent  # importing scikit-learn takes as long as importing torch
    data = np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", delimiter=",")  # 64 pixels from 0 to 16, label
    images = torch.from_numpy(data[:, :-1]).float().view(-1, 1, SIZE, SIZE) / 16
    labels = torch.from_numpy(data[:, -1]).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[slice(*SPLITS[name])]
    return images[order], labels[order]


def draw(name: str, index: int, shift: str, severity: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return image `index` of a split under a shift, and its label."""
    images, labels = split(name)
    return apply_shift(images[index], shift, severity, seed, index, SHIFTS), labels[index]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply a small random rotation (8°), scaling (5%) and translation (half a pixel): weaker than any shift."""
    n = len(images)
    angle, scale, dx, dy = (torch.rand(4, n, generator=generator) * 2 - 1).unbind()
    angle = angle * 8 * torch.pi / 180
    scale = 1 + 0.05 * scale
    cos = scale * angle.cos()
    sin = scale * angle.sin()
    matrix = torch.stack([cos, -sin, dx / SIZE, sin, cos, dy / SIZE], dim=1).view(n, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a random training batch, augmented: images (N, 1, 8, 8) and labels (N,)."""
    images, labels = split("train")
    pick = torch.randint(len(labels), (size,), generator=generator)
    return augment(images[pick], generator), labels[pick]
