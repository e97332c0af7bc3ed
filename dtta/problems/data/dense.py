"""Pictures with a map beside each, from folders: ADE20K and NYU Depth v2 as they are published, and one's own.

All lie in the data folder, $DTTA_DATA or ~/.cache/dtta/data.

* ade20k: ADEChallengeData2016/ with images/ and annotations/, each with training/ and validation/ (the "scene parsing"
  release). A pixel of value k is of class k - 1; 0 has no label.
* nyuv2: nyu_data/data/ with nyu2_train.csv and nyu2_test.csv, lines of "picture,depth" (the files that DenseDepth's
  authors made of it). Depths of 16 bits are in millimetres, those of 8 bits are in 255ths of ten metres.
* own-segmentation: images/ and annotations/, each with training/ and validation/, and classes.txt, a name a line.
  A pixel of value k is of class k, the first is 0; 255 has no label.
* own-depth: images/ and depths/, each with training/ and validation/. Depths have 16 bits, in millimetres; 0: unknown.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dtta.problems.data.folders import by_command, data_folder, open_picture, pictures, square, square_map

GET = {
    "ade20k": "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip, unpacked there",
    "nyuv2": "https://www.kaggle.com/datasets/soumikrakshit/nyu-depth-v2 (DenseDepth's nyu_data.zip), unpacked there",
    "own-segmentation": "your own; the layout is told in dtta.problems.data.dense",
    "own-depth": "your own; the layout is told in dtta.problems.data.dense",
}
FOLDERS = {"ade20k": "ADEChallengeData2016", "nyuv2": "nyu_data/data"}
FEW = 500  # images of a training part that serve for validation


@dataclass(frozen=True)
class Pairs:
    """Picture files, the file of each one's map, and how such a file is read: -> (H, W) numbers."""

    images: list[Path]
    maps: list[Path]
    read: Callable[[Path], Tensor]

    def __len__(self) -> int:
        return len(self.images)

    def at(self, index: int, size: int) -> tuple[Tensor, Tensor]:
        """The middle square of both: (3, size, size) in [0, 1] and (size, size).

        Raises:
            ValueError: a file is damaged, or the two have other shapes.
        """
        picture, values = open_picture(self.images[index]), self.read(self.maps[index])
        if picture.size[::-1] != tuple(values.shape):
            raise ValueError(f"{self.maps[index]} is not of its picture's size, {picture.size[0]} x {picture.size[1]}")
        return square(picture, size), square_map(values, size)


def folder(name: str) -> Path:
    """Where a data set lies."""
    return data_folder() / FOLDERS.get(name, name)


def read(name: str) -> dict[str, Pairs]:
    """The parts "train", "validation" (of the training part, a few) and "test" of a data set.

    Raises:
        FileNotFoundError: the data are not there, or a map is missing. ValueError: a list of files is damaged.
    """
    if name == "nyuv2":
        train, test = (_listed(name, part) for part in ("train", "test"))
    else:
        train, test = (_beside(name, part) for part in ("training", "validation"))
    few = Pairs(train.images[:FEW], train.maps[:FEW], train.read)
    return {"train": train, "validation": few, "test": test}


def missing(name: str, told: str) -> FileNotFoundError:
    """One sentence: what is not there, and how to get it."""
    return FileNotFoundError(f"{name} is not in {folder(name)} ({told}); to get it: {by_command(name)}{GET[name]}")


def own_classes() -> tuple[str, ...]:
    """The names in own-segmentation/classes.txt. Raises FileNotFoundError, or ValueError for fewer than two."""
    path = folder("own-segmentation") / "classes.txt"
    if not path.is_file():
        raise missing("own-segmentation", "classes.txt is missing")
    names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if len(set(names)) < 2 or len(set(names)) != len(names):
        raise ValueError(f"{path} must hold two different names or more, one a line")
    return names


def _beside(name: str, part: str) -> Pairs:
    """images/part/x.jpg with annotations/part/x.png."""
    kind, how = {
        "ade20k": ("annotations", _ade_classes),
        "own-segmentation": ("annotations", _own_classes),
        "own-depth": ("depths", _millimetres),
    }[name]
    images, maps = folder(name) / "images" / part, folder(name) / kind / part
    for needed in (images, maps):
        if not needed.is_dir() or not pictures(needed):
            raise missing(name, f"the folder {needed.relative_to(folder(name))} is missing or empty")
    found = pictures(images)
    beside = {path.stem: path for path in pictures(maps)}
    if alone := [path for path in found if path.stem not in beside]:
        raise missing(
            name, f"{len(alone)} of {len(found)} pictures have no map in {kind}/{part}, such as {alone[0].name}"
        )
    return Pairs(found, [beside[path.stem] for path in found], how)


def _listed(name: str, part: str) -> Pairs:
    """Lines of data/nyu2_test/00000_colors.png,data/nyu2_test/00000_depth.png."""
    path = folder(name) / f"nyu2_{part}.csv"
    if not path.is_file():
        raise missing(name, f"{path.name} is missing")
    rows = [row for row in csv.reader(path.read_text().splitlines()) if row]
    if not rows or any(len(row) != 2 for row in rows):
        raise ValueError(f"{path} must hold lines of picture,depth")
    images, maps = ([folder(name).parent / row[k] for row in rows] for k in (0, 1))
    if not images[0].is_file() or not maps[0].is_file():
        raise missing(name, f"{rows[0][0]} or {rows[0][1]}, which {path.name} names, is missing")
    return Pairs(images, maps, _nyu_depth)


# --- what the pixels of a map mean ---------------------------------------------------------------------


def _numbers(path: Path) -> tuple[Tensor, Image.Image]:
    picture = open_picture(path)
    values = np.asarray(picture)
    if values.ndim != 2:
        raise ValueError(f"{path} must have one number a pixel, not {values.shape[-1]} channels")
    return torch.from_numpy(values.astype(np.int64)), picture


def _ade_classes(path: Path) -> Tensor:
    return _numbers(path)[0] - 1


def _own_classes(path: Path) -> Tensor:
    values = _numbers(path)[0]
    return torch.where(values == 255, -1, values)


def _millimetres(path: Path) -> Tensor:
    values, picture = _numbers(path)
    if picture.mode == "L":
        raise ValueError(f"{path} must have 16 bits a pixel, depth in millimetres, not 8")
    return values.float() / 1000


def _nyu_depth(path: Path) -> Tensor:
    values, picture = _numbers(path)
    return values.float() * 10 / 255 if picture.mode == "L" else values.float() / 1000
