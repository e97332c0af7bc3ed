"""Images with a label map or a depth map, from folders: ADE20K and NYU Depth v2 as published, and data of your own.

All are read from the data folder, $DTTA_DATA or ~/.cache/dtta/data.

* ade20k: ADEChallengeData2016/ with images/ and annotations/, each with training/ and validation/ (the "scene parsing"
  release). Pixel value k means class k - 1; 0 means no label.
* nyuv2: nyu_data/data/ with nyu2_train.csv and nyu2_test.csv, lines of "image,depth" (prepared by DenseDepth's
  authors). Depths with 16 bits are in millimetres, those with 8 bits in units of 10/255 metres.
* own-segmentation: images/ and annotations/, each with training/ and validation/, and classes.txt, one name a line.
  Pixel value k means class k, counted from 0; 255 means no label.
* own-depth: images/ and depths/, each with training/ and validation/. Depths have 16 bits, in millimetres; 0: unknown.

A map has the size of its image turned upright, as its EXIF orientation says.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dtta.problems.data.download import hint
from dtta.problems.data.folders import check_counts, data_folder
from dtta.problems.data.images import center_square, center_square_map, image_files, open_image, open_map

LAYOUT = "put your own data there, in the layout that dtta.problems.data.dense describes"
SOURCES = {
    "ade20k": "https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip, unpacked there",
    "nyuv2": "https://www.kaggle.com/datasets/soumikrakshit/nyu-depth-v2 (DenseDepth's nyu_data.zip), unpacked there",
    "own-segmentation": LAYOUT,
    "own-depth": LAYOUT,
}
FOLDERS = {"ade20k": "ADEChallengeData2016", "nyuv2": "nyu_data/data"}
VALIDATION_IMAGES = 500  # of the training part
PUBLISHED = {"ade20k": dict(train=20_210, test=2_000), "nyuv2": dict(train=50_688, test=654)}  # images


@dataclass(frozen=True)
class Pairs:
    """Image files, the file of each one's map, and the function that reads a map file: -> (H, W) numbers."""

    images: list[Path]
    maps: list[Path]
    read: Callable[[Path], Tensor]

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the centre square of an image, (3, size, size) in [0, 1], and of its map, (size, size).

        Raises ValueError: a file is damaged, or image and map differ in size.
        """
        image, values = open_image(self.images[index]), self.read(self.maps[index])
        if image.size[::-1] != tuple(values.shape):
            raise ValueError(f"{self.maps[index]} differs in size from its image, {image.size[0]} x {image.size[1]}")
        return center_square(image, size), center_square_map(values, size)


def folder(name: str) -> Path:
    """Return the folder of a data set."""
    return data_folder() / FOLDERS.get(name, name)


def read(name: str) -> dict[str, Pairs]:
    """Return the parts "train", "validation" (the first images of the training part) and "test" of a data set.

    Raises FileNotFoundError: the data or some maps are missing; ValueError: a list of files is damaged.
    """
    if name == "nyuv2":
        train, test = (_listed_pairs(name, part) for part in ("train", "test"))
    else:
        train, test = (_matching_pairs(name, part) for part in ("training", "validation"))
    validation = Pairs(train.images[:VALIDATION_IMAGES], train.maps[:VALIDATION_IMAGES], train.read)
    return {"train": train, "validation": validation, "test": test}


def check_data(name: str, cells: object = None) -> None:
    """Raise FileNotFoundError if data are missing, IncompleteError if there are fewer pairs than were published.

    `cells`: not used; all shifts change the same images.
    """
    parts = read(name)
    published = PUBLISHED.get(name) or {part: len(parts[part]) for part in ("train", "test")}
    counts = {}
    for part, expected in published.items():
        pairs = zip(parts[part].images, parts[part].maps, strict=True)
        present = sum(image.is_file() and values.is_file() for image, values in pairs)
        counts[f"{'training' if part == 'train' else part} images with maps"] = (present, expected)
    check_counts(name, folder(name), counts, f"delete it, then {hint(name)}{SOURCES[name]}")


def missing(name: str, reason: str) -> FileNotFoundError:
    """Return the error that says in one sentence what is missing and how to get it."""
    return FileNotFoundError(f"{name} is not in {folder(name)} ({reason}); to get it: {hint(name)}{SOURCES[name]}")


def own_classes() -> tuple[str, ...]:
    """Return the names in own-segmentation/classes.txt.

    Raises FileNotFoundError: there is no such file; ValueError: fewer than two names, or a name twice.
    """
    path = folder("own-segmentation") / "classes.txt"
    if not path.is_file():
        raise missing("own-segmentation", "classes.txt is missing")
    names = tuple(line.strip() for line in read_lines(path) if line.strip())
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"{path} must contain at least two different names, one a line")
    return names


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file. Raises ValueError: it is not UTF-8; OSError: it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()  # Windows' editors put a mark first
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it in that encoding") from error


def _matching_pairs(name: str, part: str) -> Pairs:
    """Pair images/part/x.jpg with annotations/part/x.png."""
    kind, read_map = {
        "ade20k": ("annotations", _ade_labels),
        "own-segmentation": ("annotations", own_labels),
        "own-depth": ("depths", millimetres),
    }[name]
    images, maps = folder(name) / "images" / part, folder(name) / kind / part
    for needed in (images, maps):
        if not needed.is_dir() or not image_files(needed):
            raise missing(name, f"the folder {needed.relative_to(folder(name))} is missing or empty")
    paths = image_files(images)
    map_of = {path.stem: path for path in image_files(maps)}
    unmatched = [path.name for path in paths if path.stem not in map_of]
    if unmatched:
        raise missing(
            name, f"{len(unmatched)} of {len(paths)} images have no map in {kind}/{part}, such as {unmatched[0]}"
        )
    return Pairs(paths, [map_of[path.stem] for path in paths], read_map)


def _listed_pairs(name: str, part: str) -> Pairs:
    """Read lines such as data/nyu2_test/00000_colors.png,data/nyu2_test/00000_depth.png."""
    path = folder(name) / f"nyu2_{part}.csv"
    if not path.is_file():
        raise missing(name, f"{path.name} is missing")
    rows = [row for row in csv.reader(read_lines(path)) if row]
    if not rows or any(len(row) != 2 for row in rows):
        raise ValueError(f"{path} must contain lines of image,depth")
    images, maps = ([folder(name).parent / row[k] for row in rows] for k in (0, 1))
    if not images[0].is_file() or not maps[0].is_file():
        raise missing(name, f"{rows[0][0]} or {rows[0][1]}, listed in {path.name}, is missing")
    return Pairs(images, maps, _nyu_depth)


def _pixel_values(path: Path) -> tuple[Tensor, bool]:
    """Return a map's values (H, W), and whether the file has at most 8 bits a pixel."""
    values = open_map(path)
    if values.ndim != 2 or values.dtype.kind == "f":
        form = f"{values.shape[-1]} channels" if values.ndim > 2 else "fractions"
        raise ValueError(f"{path} must have one whole number a pixel, not {form}")
    return torch.from_numpy(values.astype(np.int64)), values.dtype.itemsize == 1


def _ade_labels(path: Path) -> Tensor:
    return _pixel_values(path)[0] - 1


def own_labels(path: Path) -> Tensor:
    """Return a PNG's labels; 255, unlabelled, becomes -1."""
    values, _ = _pixel_values(path)
    return torch.where(values == 255, -1, values)


def millimetres(path: Path) -> Tensor:
    """Return the depth in metres of a PNG in millimetres. Raises ValueError: it has 8 bits a pixel."""
    values, eight_bits = _pixel_values(path)
    if eight_bits:
        raise ValueError(f"{path} must have 16 bits a pixel, depth in millimetres, not 8")
    return values.float() / 1000


def _nyu_depth(path: Path) -> Tensor:
    values, eight_bits = _pixel_values(path)
    return values.float() * 10 / 255 if eight_bits else values.float() / 1000
