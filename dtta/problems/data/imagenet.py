"""ImageNet and the data sets with its classes, each from a folder in the layout in which it is published.

All lie in the data folder, $DTTA_DATA or ~/.cache/dtta/data. What is missing is said with where to get it.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from timm.data import ImageNetInfo

from dtta.problems.data.folders import by_command, data_folder, in_turn, one_line, pictures

CORRUPTIONS = {  # ImageNet-C's families, by the archive that holds them
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
FAMILIES = tuple(name for group in CORRUPTIONS.values() for name in group)


@dataclass(frozen=True)
class Layout:
    """How a data set is published.

    Args:
        folders: where its class folders may be, under the data folder; the first that is there counts.
        get: where it comes from, and how.
        subset: timm's list of the classes that it has; None: all thousand.
        numbered: whether its folders are class numbers 0 to 999 instead of WordNet's.
    """

    folders: tuple[str, ...]
    get: str
    subset: str | None = None
    numbered: bool = False


LAYOUTS = {
    "imagenet": Layout(
        ("val",),
        "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from https://image-net.org/download (an account is "
        "needed); torchvision.datasets.ImageNet(FOLDER, 'val') unpacks them",
    ),
    "imagenet-a": Layout(
        ("imagenet-a",), "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar, unpacked there", "imagenet_a"
    ),
    "imagenet-r": Layout(
        ("imagenet-r",), "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar, unpacked there", "imagenet_r"
    ),
    "imagenet-v2": Layout(
        ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"),
        "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz, "
        "unpacked there",
        numbered=True,
    ),
    "imagenet-s": Layout(
        ("stylized-imagenet/val",),
        "it is made from ImageNet's validation images by the code of https://github.com/rgeirhos/Stylized-ImageNet",
    ),
    "imagenet-sketch": Layout(
        ("imagenet-sketch/sketch", "sketch"),
        "ImageNet-Sketch.zip, by https://github.com/HaohanWang/ImageNet-Sketch, unpacked there",
    ),
    "imagenet-c": Layout(
        ("imagenet-c", "ImageNet-C"),
        "noise.tar, blur.tar, weather.tar and digital.tar from https://zenodo.org/records/2235448, unpacked there",
    ),
    "objectnet": Layout(
        ("objectnet-1.0", "objectnet"), "objectnet-1.0.zip from https://objectnet.dev/download.html, unpacked there"
    ),
}


@dataclass(frozen=True)
class Pictures:
    """Files and what they show.

    Args:
        paths, labels: each class in turn (see ``in_turn``); a label is a number in `kept`.
        kept: numbers of ImageNet's classes that answers are restricted to.
        alike: label -> labels that are as right, where a picture's class has several of ImageNet's.
        border: pixels to cut off on each side.
    """

    paths: Sequence[Path]
    labels: Sequence[int]
    kept: Sequence[int]
    alike: dict[int, frozenset[int]] = field(default_factory=dict)
    border: int = 0


@cache
def synsets() -> list[str]:
    """WordNet's numbers of the thousand classes, in their order."""
    return ImageNetInfo().label_names()


def class_names(kept: Sequence[int]) -> tuple[str, ...]:
    """Their first names; two classes with one name are told apart by WordNet's number."""
    info = ImageNetInfo()
    first = [info.index_to_description(i).partition(",")[0] for i in range(1000)]
    return tuple(first[i] if first.count(first[i]) == 1 else f"{first[i]} ({synsets()[i]})" for i in kept)


def kept_classes(name: str) -> list[int]:
    """Numbers of the classes that a data set has."""
    subset = LAYOUTS[name].subset
    if subset is None:
        return list(range(1000))
    listed = pkgutil.get_data("timm.data", f"_info/{subset}_synsets.txt").decode().split()
    place = {synset: i for i, synset in enumerate(synsets())}
    return sorted(place[synset] for synset in listed)


def missing(name: str, told: str, where: Path | None = None) -> FileNotFoundError:
    """One sentence: what is not there, and how to get it."""
    layout = LAYOUTS[name]
    place = where or data_folder() / layout.folders[0]
    return FileNotFoundError(f"{name} is not in {place} ({told}); to get it: {by_command(name)}{layout.get}")


def root(name: str) -> Path:
    """The folder of a data set. Raises FileNotFoundError if it is not there."""
    for folder in LAYOUTS[name].folders:
        if (data_folder() / folder).is_dir():
            return data_folder() / folder
    if name == "imagenet" and any(data_folder().glob("ILSVRC2012_img_val.tar")):
        return _unpacked()
    raise missing(name, "there is no such folder")


def _unpacked() -> Path:
    from torchvision.datasets import ImageNet  # asked for its unpacking alone

    try:
        ImageNet(str(data_folder()), "val")
    except (RuntimeError, OSError) as error:
        raise missing("imagenet", one_line(error)) from error
    return data_folder() / "val"


@cache
def read(name: str, of: Path) -> Pictures:
    """The pictures of a data set; `of`: its folder, as ``root`` gives it.

    Raises:
        FileNotFoundError: a class's folder or a mapping is missing. ValueError: a mapping is damaged.
    """
    if name == "objectnet":
        return _objectnet(of)
    if name == "imagenet-c":
        of = family(of, *_first_family(of))
    kept = kept_classes(name)
    folders = [of / (str(i) if LAYOUTS[name].numbered else synsets()[i]) for i in kept]
    lacking = [folder.name for folder in folders if not folder.is_dir()]
    if lacking:
        raise missing(name, f"{len(lacking)} of {len(kept)} class folders are missing, such as {lacking[0]}", of)
    paths, labels = [], []
    for label, folder in enumerate(folders):
        found = pictures(folder)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise missing(name, "its class folders hold no pictures", of)
    order = in_turn(labels, len(kept))
    return Pictures([paths[i] for i in order], [labels[i] for i in order], kept)


def training_pictures(kept: Sequence[int], each: int = 5) -> Pictures | None:
    """The first pictures of ImageNet's training part of some classes, for validation; None if they are not there."""
    folders = [data_folder() / "train" / synsets()[i] for i in kept]
    if not all(folder.is_dir() for folder in folders):
        return None
    found = [pictures(folder)[:each] for folder in folders]
    labels = [label for label, paths in enumerate(found) for _ in paths]
    paths = [path for paths in found for path in paths]
    order = in_turn(labels, len(kept))
    return Pictures([paths[i] for i in order], [labels[i] for i in order], kept)


# --- ImageNet-C: one folder for each family and severity ----------------------------------------------


def family(of: Path, name: str, severity: int) -> Path:
    """The folder of a family at a severity, as the archives unpack: with or without the archive's name before it.

    Raises:
        FileNotFoundError: it is not there.
    """
    group = next(group for group, names in CORRUPTIONS.items() if name in names)
    for folder in (of / name / str(severity), of / group / name / str(severity)):
        if folder.is_dir():
            return folder
    raise missing("imagenet-c", f"there is no {name}/{severity} in it; it is in {group}.tar", of)


def _first_family(of: Path) -> tuple[str, int]:
    for name in FAMILIES:
        for severity in range(1, 6):
            try:
                family(of, name, severity)
                return name, severity
            except FileNotFoundError:
                continue
    raise missing("imagenet-c", "it has none of the families, such as gaussian_noise/5", of)


# --- ObjectNet: its classes are mapped to ImageNet's ---------------------------------------------------


def _objectnet(of: Path) -> Pictures:
    """Its pictures of those classes that ImageNet has too; each may be several of ImageNet's classes."""
    maps = of / "mappings"
    try:
        object_of = json.loads((maps / "folder_to_objectnet_label.json").read_text())
        imagenet_of = json.loads((maps / "objectnet_to_imagenet_1k.json").read_text())
        lines = (maps / "imagenet_to_label_2012_v2").read_text().splitlines()
        line_of = json.loads((maps / "pytorch_to_imagenet_2012_id.json").read_text())
        number = {lines[int(line)].strip(): int(index) for index, line in line_of.items()}
        classes = {
            folder: sorted(number[name.strip()] for name in imagenet_of[thing].split(";"))
            for folder, thing in object_of.items()
            if thing in imagenet_of
        }
    except FileNotFoundError as error:
        raise missing("objectnet", f"{error.filename} is missing", of) from error
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{maps} does not hold ObjectNet's mappings as published ({error!r})") from error
    kept = sorted({number for numbers in classes.values() for number in numbers})
    place = {number: label for label, number in enumerate(kept)}
    paths, labels, alike = [], [], {}
    for folder, numbers in sorted(classes.items()):
        if not (of / "images" / folder).is_dir():
            raise missing("objectnet", f"the class folder images/{folder} is missing", of)
        found = pictures(of / "images" / folder)
        paths += found
        labels += [place[numbers[0]]] * len(found)
        alike[place[numbers[0]]] = frozenset(place[number] for number in numbers)
    order = in_turn(labels, len(kept))
    # A red frame of two pixels says that a picture must not be trained on; its authors cut it off.
    return Pictures([paths[i] for i in order], [labels[i] for i in order], kept, alike, border=2)
