"""Image files: reading them, cutting out the centre square, and ordering them by class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from random import Random

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as T

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def open_image(path: Path) -> Image.Image:
    """Read an image file completely. Raises ValueError if the file is damaged or no image."""
    try:
        with Image.open(path) as file:
            file.load()
            return file
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a readable image ({error}); download or copy it again") from error


def interleave_classes(labels: Sequence[int], classes: int) -> list[int]:
    """Return image numbers that cycle through the classes, in random order within a class and a cycle (seed 0).

    The first k · `classes` are k of each, as long as each has k images. Labels from `classes` on are left out. Classes
    are not in their own order: neighbours are similar (dogs, cars), and a batch of them would have odd statistics.
    """
    of_class: list[list[int]] = [[] for _ in range(classes)]
    for index, label in enumerate(labels):
        if label < classes:
            of_class[label].append(index)
    rng = Random(0)
    for indices in of_class:
        rng.shuffle(indices)
    cycles = [[index for index in cycle if index is not None] for cycle in zip_longest(*of_class)]
    return [index for cycle in cycles for index in rng.sample(cycle, len(cycle))]


def image_tensor(image: Image.Image) -> Tensor:
    """Return an image as a tensor (3, H, W) in [0, 1]."""
    return T.to_dtype(T.pil_to_tensor(image.convert("RGB")), torch.float32, scale=True)


def center_square(image: Image.Image, size: int, interpolation: str = "bicubic") -> Tensor:
    """Resize the shorter side to `size` (antialiased) and crop the centre: (3, size, size) in [0, 1]."""
    whole = image_tensor(image)
    whole = T.resize(whole, [size], interpolation=T.InterpolationMode(interpolation), antialias=True).clamp(0, 1)
    return T.center_crop(whole, [size, size])


def center_square_map(values: Tensor, size: int) -> Tensor:
    """Resize and crop a map (H, W) of labels or depths as `center_square` does, with nearest neighbours."""
    whole = T.resize(values[None], [size], interpolation=T.InterpolationMode.NEAREST_EXACT)
    return T.center_crop(whole, [size, size])[0]
