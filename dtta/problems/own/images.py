"""Pictures of your own, from a folder or a CSV file, with or without labels.

* a folder of class folders, each with pictures; or "test" and "validation" folders that contain class folders
* a CSV file of picture and label, one a line: a class name or number, or the file of a mask or a depth map. Paths are
  relative to the CSV file. A header ("file,label", "file,mask" or "file,depth") and a third column, "test" or
  "validation", are optional.
* a folder with images/ and masks/ (or annotations/), or images/ and depths/, matched by the names of the files
* a folder of pictures, or one picture, without labels

In a mask, pixel value k means class k, counted from 0, and 255 means no label; depths have 16 bits, in millimetres, and
0 means unknown. A map has the size of its picture.
"""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from dtta.problems.data.dense import read_lines
from dtta.problems.data.folders import one_line
from dtta.problems.data.images import SUFFIXES, image_files, interleave_classes

MAPS = {"masks": "mask", "annotations": "mask", "depths": "depth"}  # name of a folder -> what it contains
SPLITS = {"test": "test", "validation": "validation", "val": "validation"}
HEADERS = ("file", "filename", "image", "path", "picture")
KINDS = {"mask": "mask", "depth": "depth", "label": "class", "class": "class", "map": "map"}
ORIENTATION = 274  # the EXIF tag; from 5 on, a viewer exchanges width and height


@dataclass(frozen=True)
class Picture:
    """A picture file and what is known of it.

    Args:
        target: the name or number of its class, or "".
        map: the file of its mask or depth map.
        split: "test" or "validation", or "" if it is not assigned to one.
        where: what a message about its target names.
    """

    file: Path
    target: str = ""
    map: Path | None = None
    split: str = ""
    where: str = ""


@dataclass(frozen=True)
class Pictures:
    """All pictures of a folder or file; `kind` of label: "class", "mask", "depth", "map" (either), or "" for none."""

    root: Path
    items: list[Picture]
    kind: str = ""

    @property
    def class_names(self) -> list[str]:
        """The different labels, sorted: the names of the class folders."""
        return sorted({_normal(item.target) for item in self.items} - {""})

    @property
    def fingerprint(self) -> str:
        """A number of twelve digits for the files, their sizes and their labels, to notice that they have changed."""
        digest = hashlib.sha256()
        base = self.root if self.root.is_dir() else self.root.parent
        for item in self.items:
            files = [file for file in (item.file, item.map) if file]
            parts = [(_relative(file, base), file.stat().st_size) for file in files]
            digest.update(repr((parts, item.target, item.split)).encode())
        return digest.hexdigest()[:12]

    def labels(self, names: Sequence[str], ids: Sequence[str] = ()) -> list[int]:
        """Return the class number of each picture.

        A label is a name, in which _ may replace a blank, one of `ids` (other names), or a number from 0. Raises
        ValueError: it is none of these.
        """
        number_of = {str(k): k for k in range(len(names))}
        for some in (ids, names):
            number_of |= {_normal(name): k for k, name in enumerate(some)}
        for item in self.items:
            if _normal(item.target) not in number_of:
                few = ", ".join(list(names)[:5]) + (", ..." if len(names) > 5 else "")
                raise ValueError(f"{item.where} is not among the {len(names)} class names: {few}")
        return [number_of[_normal(item.target)] for item in self.items]

    def check_maps(self) -> None:
        """Raise ValueError if a map differs in size from its picture, or one of them cannot be read."""
        for item in self.items:
            picture, of_map = _size(item.file, turned=True), _size(item.map)
            if picture != of_map:
                sizes = f"{of_map[0]} x {of_map[1]}, and its picture {item.file.name} {picture[0]} x {picture[1]}"
                raise ValueError(f"{item.map} has {sizes}; a map must have the size of its picture")

    def split(self, labels: Sequence[int] | None, share: float, seed: int) -> dict[str, list[int]]:
        """Return the numbers of the pictures of each split.

        Pictures that are not assigned to a split are divided at random: of each class a `share`, rounded, become
        validation images. With classes, each split cycles through them (see ``interleave_classes``).
        """
        groups: dict[int, list[int]] = {}
        for k, item in enumerate(self.items):
            if not item.split:
                groups.setdefault(labels[k] if labels else 0, []).append(k)
        validation = {k for k, item in enumerate(self.items) if item.split == "validation"}
        for _, group in sorted(groups.items()) if self.kind else ():
            validation.update(Random(seed).sample(group, round(share * len(group))))
        parts = {"test": [k for k in range(len(self.items)) if k not in validation], "validation": sorted(validation)}
        if labels:
            for name, part in parts.items():
                order = interleave_classes([labels[k] for k in part], max(labels) + 1)
                parts[name] = [part[k] for k in order]
        return {name: part for name, part in parts.items() if part}


def read(source: str | Path) -> Pictures:
    """Return the pictures of a folder or file. Raises ValueError: there are none, or not as above."""
    root = Path(source).expanduser()
    if root.is_dir():
        return _folder(root)
    if not root.exists():
        raise ValueError(f"there is no folder or file {root}")
    if root.suffix.lower() == ".csv":
        return _listed(root)
    if root.suffix.lower() in SUFFIXES:
        return Pictures(root, [Picture(root)])
    raise ValueError(f"{root} is no folder, no CSV file and no picture ({', '.join(SUFFIXES)})")


def read_names(file: Path) -> list[str]:
    """Return the names in a text file, one a line. Raises ValueError: not readable, or empty."""
    try:
        names = [line.strip() for line in read_lines(file) if line.strip()]
    except OSError as error:
        raise ValueError(
            f"{file} cannot be read ({error.strerror}); give a text file with one class name a line"
        ) from error
    if not names:
        raise ValueError(f"{file} contains no class names; write one a line")
    return names


def _folder(root: Path) -> Pictures:
    folders = _folders(root)
    loose = image_files(root)
    parts = {name: folder for name, folder in folders.items() if name.lower() in SPLITS}
    if "images" in folders and MAPS.keys() & folders.keys():
        return _with_maps(root, folders)
    if any(SPLITS[name.lower()] == "test" for name in parts) and not loose:
        items = [
            Picture(item.file, item.target, split=SPLITS[name.lower()], where=item.where)
            for name, folder in parts.items()
            for item in _classes(folder)
        ]
        return Pictures(root, _some(items, root), "class")
    items = _classes(root)
    if items and loose:
        raise ValueError(f"{root} contains pictures, such as {loose[0].name}, next to its class folders; move them")
    if items:
        return Pictures(root, items, "class")
    return Pictures(root, _some([Picture(file) for file in loose], root))


def _folders(root: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def _classes(root: Path) -> list[Picture]:
    return [
        Picture(file, name, where=f"the class folder {name!r} in {root}")
        for name, folder in _folders(root).items()
        for file in image_files(folder)
    ]


def _some(items: list[Picture], root: Path) -> list[Picture]:
    if not items:
        raise ValueError(f"{root} holds no images ({', '.join(SUFFIXES)}), nor class folders with images")
    return items


def _with_maps(root: Path, folders: dict[str, Path]) -> Pictures:
    name = next(name for name in MAPS if name in folders)
    map_of = {path.stem: path for path in image_files(folders[name])}
    files = image_files(folders["images"])
    lacking = [file.name for file in files if file.stem not in map_of]
    if lacking:
        raise ValueError(
            f"{len(lacking)} of {len(files)} pictures have no map in {folders[name]}, such as {lacking[0]}"
        )
    return Pictures(root, _some([Picture(file, map=map_of[file.stem]) for file in files], root), MAPS[name])


def _listed(path: Path) -> Pictures:
    kind, items = "", []
    reader = csv.reader(read_lines(path), strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            where = f"{path}, line {reader.line_num}"
            if not any(cells):
                continue
            if not items and not kind and cells[0].lower() in HEADERS and len(cells) > 1:
                if cells[1].lower() not in KINDS:
                    raise ValueError(f"{where}: the second column must be label, mask or depth, not {cells[1]!r}")
                kind = KINDS[cells[1].lower()]
                continue
            if not 2 <= len(cells) <= 3 or not all(cells[:2]):
                raise ValueError(f"{where}: write file,label or file,label,split, not {','.join(cells)!r}")
            if len(cells) == 3 and cells[2].lower() not in SPLITS:
                raise ValueError(f"{where}: the split must be test or validation, not {cells[2]!r}")
            kind = kind or ("map" if Path(cells[1]).suffix.lower() in SUFFIXES else "class")
            items.append(_line(path.parent, cells, kind, where))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}, is no line of a CSV file ({error})") from error
    if not items:
        raise ValueError(f"{path} contains no pictures; write file,label, one a line")
    return Pictures(path, items, kind)


def _line(folder: Path, cells: list[str], kind: str, where: str) -> Picture:
    split = SPLITS[cells[2].lower()] if len(cells) == 3 else ""
    files = [folder / Path(cell).expanduser() for cell in (cells[:1] if kind == "class" else cells[:2])]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{where}: there is no file {file}")
    if kind == "class":
        return Picture(files[0], cells[1], split=split, where=f"the label {cells[1]!r} ({where})")
    return Picture(files[0], map=files[1], split=split)


def _size(file: Path, turned: bool = False) -> tuple[int, int]:
    """Return width and height, from the head of the file."""
    try:
        with Image.open(file) as image:
            exchanged = turned and image.getexif().get(ORIENTATION, 1) >= 5
            return image.size[::-1] if exchanged else image.size
    except Exception as error:  # Pillow raises many kinds
        raise ValueError(f"{file} is not a readable image ({one_line(error)}); download or copy it again") from error


def _normal(name: str) -> str:
    """Return a name as it is compared: composed characters (macOS decomposes them) and blanks instead of _."""
    return unicodedata.normalize("NFC", name).replace("_", " ").strip()


def _relative(file: Path, base: Path) -> str:
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else str(file)


def different(names: Iterable[str]) -> list[str]:
    """Return class names as a list. Raises ValueError: fewer than two, an empty one, or one twice."""
    names = list(names)
    normal = [_normal(name) for name in names]
    if len(names) < 2 or not all(normal):
        raise ValueError(f"give two class names or more, each a non-empty string, not {names!r}")
    repeated = sorted({name for name in normal if normal.count(name) > 1})
    if repeated:
        raise ValueError(f"class names must differ; repeated: {', '.join(repeated[:5])}")
    return names
