"""Data sets on disk, each in the layout that it is published in, and pictures made square."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from random import Random

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as T

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def data_folder() -> Path:
    """Where data sets are read: $DTTA_DATA or ~/.cache/dtta/data."""
    return Path(os.environ.get("DTTA_DATA") or Path.home() / ".cache" / "dtta" / "data")


def cache_folder() -> Path:
    """Where what is made stays: $DTTA_CACHE or ~/.cache/dtta."""
    return Path(os.environ.get("DTTA_CACHE") or Path.home() / ".cache" / "dtta")


def by_command(name: str) -> str:
    """How to say that ``dtta fetch`` brings a data set; nothing for those that it does not."""
    from dtta.problems.data.download import ARCHIVES  # it reads this module

    return f"dtta fetch {name}, or by hand " if name in ARCHIVES else ""


def pictures(folder: Path) -> list[Path]:
    """The picture files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def open_picture(path: Path) -> Image.Image:
    """A picture file, read whole. Raises ValueError if it is none."""
    try:
        with Image.open(path) as file:
            file.load()
            return file
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a readable picture ({error}); get it again") from error


def in_turn(labels: Sequence[int], classes: int) -> list[int]:
    """Image numbers, each class in turn, in random order (seed 0): the first 5 L images are five of each class."""
    of_class: list[list[int]] = [[] for _ in range(classes)]
    for index, label in enumerate(labels):
        if label < classes:
            of_class[label].append(index)
    rng = Random(0)
    for found in of_class:
        rng.shuffle(found)
    return [index for row in zip_longest(*of_class) for index in row if index is not None]


def pixels(picture: Image.Image) -> Tensor:
    """A picture as (3, H, W) in [0, 1]."""
    return T.to_dtype(T.pil_to_tensor(picture.convert("RGB")), torch.float32, scale=True)


def square(picture: Image.Image, size: int) -> Tensor:
    """The middle of a picture, (3, size, size) in [0, 1]: its shorter side brought to `size` (bicubic)."""
    whole = T.resize(pixels(picture), [size], interpolation=T.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    return T.center_crop(whole, [size, size])


def square_map(values: Tensor, size: int) -> Tensor:
    """The middle of a map (H, W) of numbers that must not be mixed, (size, size): as `square` has it, nearest."""
    whole = T.resize(values[None], [size], interpolation=T.InterpolationMode.NEAREST_EXACT)
    return T.center_crop(whole, [size, size])[0]


def one_line(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
