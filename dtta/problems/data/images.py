"""Image files: reading them, cutting out the centre square, and ordering them by class.

Pictures are read as a viewer shows them: upright, as their EXIF orientation says; transparent parts on white; of an
animation or a file of several pages the first. The released code reads with torchvision, which ignores orientation and
transparency; files with neither are the same. Maps of labels or depths are numbers and are read unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from dtta.problems.data.folders import one_line

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # in capitals too


def image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name, without hidden ones such as macOS's ._x.jpg."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()]
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def open_image(path: Path) -> Image.Image:
    """Read a picture completely, as a viewer shows it: in mode RGB, or F with values in [0, 1] (16-bit greys / 65535).

    Raises ValueError: the file is damaged, no image, or so large that it may be an attack (Pillow's limit); or its
    numbers have 32 bits and are not in [0, 1].
    """
    image = _read(path, _shown)
    if image.mode == "RGB":
        return image
    values = np.array(image)
    if image.mode.startswith("I;16"):
        values[values == image.info.get("transparency")] = 65535
        values = values / 65535
    elif not (values.min() >= 0 and values.max() <= 1):  # NaN too
        numbers = f"{values.dtype} numbers from {values.min():g} to {values.max():g}"
        raise ValueError(f"{path} has {numbers} as pixels; scale them to [0, 1], or save them with 8 or 16 bits")
    return Image.fromarray(values.astype(np.float32))


def open_map(path: Path) -> np.ndarray:
    """Read the numbers (H, W) of a map of labels or depths; of a palette, its indices. Raises ValueError: damaged."""
    return _read(path, np.array)


def _read(path: Path, convert):
    try:
        with Image.open(path) as file:
            file.load()
            return convert(file)
    except Exception as error:  # Pillow raises many kinds
        advice = "shrink it" if isinstance(error, Image.DecompressionBombError) else "download or copy it again"
        raise ValueError(f"{path} is not a readable image ({one_line(error)}); {advice}") from error


def _shown(image: Image.Image) -> Image.Image:
    """Turn an image upright; return it on white and in mode RGB, unless it has one number of 16 or 32 bits a pixel."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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
    """Return an image, as `open_image` reads it, as a tensor (3, H, W) in [0, 1]."""
    if image.mode == "F":
        return T.pil_to_tensor(image).repeat(3, 1, 1)
    return T.to_dtype(T.pil_to_tensor(image.convert("RGB")), torch.float32, scale=True)


def center_square(image: Image.Image, size: int, interpolation: str = "bicubic") -> Tensor:
    """Resize the shorter side to `size` (antialiased) and crop the centre: (3, size, size) in [0, 1]."""
    whole = image_tensor(image)
    whole = T.resize(whole, [size], interpolation=T.InterpolationMode(interpolation), antialias=True).clamp(0, 1)
    return T.center_crop(whole, [size, size])


def centered(image: Image.Image, shape: Sequence[int]) -> Tensor:
    """Return the centre square of an image in the shape (C, H, W) of a problem, in grey if C is 1."""
    channels, *size = shape
    if channels == 1 and image.mode == "RGB":
        image = image.convert("L")
    return T.center_crop(center_square(image, max(size)), size)[:channels]


def center_square_map(values: Tensor, size: int) -> Tensor:
    """Resize and crop a map (H, W) of labels or depths as `center_square` does, with nearest neighbours."""
    whole = T.resize(values[None], [size], interpolation=T.InterpolationMode.NEAREST_EXACT)
    return T.center_crop(whole, [size, size])[0]


def no_labels(split: str, index: int, shift: str, severity: int, seed: int) -> tuple[Tensor, Tensor]:
    """The `draw` of a problem whose class names the user gave: no labelled images exist for them."""
    raise ValueError("there are no labelled images for class names of your own; give an image too")
