"""ImageNet and the data sets with its classes, read from folders of the data folder in the published layout."""

from __future__ import annotations

import json
import pkgutil
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image
from timm.data import ImageNetInfo
from torchvision.models import ResNet18_Weights

from dtta.problems.data.download import hint, lock
from dtta.problems.data.folders import check_counts, data_folder, one_line
from dtta.problems.data.images import image_files, interleave_classes, open_image

ARCHIVES = {  # of ImageNet-C, with the corruptions in each
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
VALIDATION_ARCHIVES = ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")
CORRUPTIONS = tuple(name for names in ARCHIVES.values() for name in names)


@dataclass(frozen=True)
class Layout:
    """The layout in which a data set is published: class folders in the first of `folders` that exists.

    `source`: where to get it, and how. `images`: how many were published (see imagenet.toml).
    `subset`: timm's name of the list of its classes; None: all thousand.
    `numbered`: whether class folders are named by class numbers 0 to 999 instead of WordNet ids.
    """

    folders: Sequence[str]
    source: str
    images: int
    subset: str | None = None
    numbered: bool = False


LAYOUTS = {
    name: Layout(**entry)
    for name, entry in tomllib.loads(Path(__file__).with_name("imagenet.toml").read_text(encoding="utf-8")).items()
}


@dataclass(frozen=True)
class LabelledFiles:
    """Image files and their labels, indices into `classes`; interleaved by class (see ``interleave_classes``).

    Args:
        classes: numbers of the ImageNet classes that predictions are restricted to.
        accepted: label -> labels that count as correct, if an image's class corresponds to several of ImageNet's.
        border: pixels to cut off on each side.
    """

    paths: Sequence[Path]
    labels: Sequence[int]
    classes: Sequence[int]
    accepted: dict[int, frozenset[int]] = field(default_factory=dict)
    border: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return an image and its label, as torchvision's data sets do."""
        return open_image(self.paths[index]), self.labels[index]


@cache
def synsets() -> list[str]:
    """Return the WordNet ids of the thousand classes, in their order."""
    return ImageNetInfo().label_names()


def class_names(classes: Sequence[int]) -> tuple[str, ...]:
    """Return a name of each class; all thousand differ, also in lower case, in which text encoders read them.

    It is torchvision's, the first of WordNet's synonyms except for "crane bird" (the other crane is the machine) and
    "maillot tank suit"; all synonyms, if two differ only in case: "Cardigan, Cardigan Welsh corgi" and "cardigan".
    """
    names = _all_class_names()
    return tuple(names[i] for i in classes)


@cache
def _all_class_names() -> list[str]:
    info, names = ImageNetInfo(), ResNet18_Weights.DEFAULT.meta["categories"]
    count = Counter(name.lower() for name in names)
    return [name if count[name.lower()] == 1 else info.index_to_description(i) for i, name in enumerate(names)]


def classes_of(name: str) -> list[int]:
    """Return the numbers of the ImageNet classes that a data set has."""
    subset = LAYOUTS[name].subset
    if subset is None:
        return list(range(1000))
    ids = pkgutil.get_data("timm.data", f"_info/{subset}_synsets.txt").decode().split()
    number_of = {synset: i for i, synset in enumerate(synsets())}
    return sorted(number_of[synset] for synset in ids)


def missing(name: str, reason: str, folder: Path | None = None) -> FileNotFoundError:
    """Return the error that says in one sentence what is missing and how to get it."""
    layout = LAYOUTS[name]
    place = folder or data_folder() / layout.folders[0]
    return FileNotFoundError(f"{name} is not in {place} ({reason}); to get it: {hint(name)}{layout.source}")


def root(name: str) -> Path:
    """Return the folder of a data set. Raises FileNotFoundError if there is none."""
    for folder in LAYOUTS[name].folders:
        if (data_folder() / folder).is_dir():
            return data_folder() / folder
    if name == "imagenet" and (data_folder() / VALIDATION_ARCHIVES[0]).is_file():
        with lock("imagenet"):
            return _unpack_validation()
    raise missing(name, "there is no such folder")


def _unpack_validation() -> Path:
    """Unpack in a temporary folder, then move the result, so that it is never incomplete."""
    from torchvision.datasets import ImageNet  # only to unpack

    target = data_folder() / "val"
    if target.is_dir():  # another process unpacked it in the meantime
        return target
    with tempfile.TemporaryDirectory(dir=data_folder(), prefix=".unpacking-") as temporary:
        for archive in VALIDATION_ARCHIVES:
            (Path(temporary) / archive).symlink_to((data_folder() / archive).resolve())
        try:
            ImageNet(temporary, "val")
        except (RuntimeError, OSError) as error:
            raise missing("imagenet", one_line(error).replace(temporary, str(data_folder()))) from error
        (Path(temporary) / "val").replace(target)
    return target


def _by_class(folders: Sequence[Path], classes: Sequence[int], most: int | None = None) -> LabelledFiles:
    """Return the images of one folder for each class, at most this many of each."""
    paths, labels = [], []
    for label, folder in enumerate(folders):
        files = image_files(folder)[:most]
        paths += files
        labels += [label] * len(files)
    order = interleave_classes(labels, len(classes))
    return LabelledFiles([paths[i] for i in order], [labels[i] for i in order], classes)


@cache
def read(name: str, folder: Path) -> LabelledFiles:
    """Return the images of a data set; `folder`: as ``root`` returns it.

    Raises FileNotFoundError: a class folder or a mapping is missing; ValueError: a mapping is damaged.
    """
    if name == "objectnet":
        return _objectnet(folder)
    if name == "imagenet-c":
        folder = corrupted(folder, *_first_corruption(folder))
    return _read_classes(name, folder)


@cache
def _read_classes(name: str, folder: Path) -> LabelledFiles:
    classes = classes_of(name)
    folders = [folder / (str(i) if LAYOUTS[name].numbered else synsets()[i]) for i in classes]
    absent = [path.name for path in folders if not path.is_dir()]
    if absent:
        raise missing(name, f"{len(absent)} of {len(classes)} class folders are missing, such as {absent[0]}", folder)
    files = _by_class(folders, classes)
    if not files.paths:
        raise missing(name, "its class folders contain no images", folder)
    return files


def check_data(name: str, cells: Iterable[tuple[str, int]] = ()) -> None:
    """Raise FileNotFoundError if a data set is missing, IncompleteError if it has fewer images than were published.

    `cells`: of imagenet-c, the corruptions and severities to check, "clean" for ImageNet itself; without any: all.
    """
    folder, published = root(name), LAYOUTS[name].images
    parts = {folder: read(name, folder)}
    if name == "imagenet-c":
        cells = list(cells) or [(corruption, severity) for corruption in CORRUPTIONS for severity in range(1, 6)]
        if any(shift == "clean" for shift, _ in cells):
            check_data("imagenet")
        folders = [corrupted(folder, shift, severity) for shift, severity in cells if shift != "clean"]
        parts = {folder: _read_classes(name, folder) for folder in folders}
    for place, files in parts.items():
        counts = {"images": (len(files), published)}
        if not files.accepted:  # a folder of ObjectNet may stand for several of its classes
            counts["classes"] = (len(set(files.labels)), len(files.classes))
        check_counts(name, place, counts, f"delete it, then {hint(name)}{LAYOUTS[name].source}")


def training_images(classes: Sequence[int], each: int = 5) -> LabelledFiles | None:
    """Return the first `each` images of some classes of ImageNet's training part; None if any folder is missing."""
    train = data_folder() / "train"
    if not train.is_dir():
        return None
    folders = [train / synsets()[i] for i in classes]
    if not all(folder.is_dir() for folder in folders):
        return None
    return _by_class(folders, classes, each)


def corrupted(folder: Path, corruption: str, severity: int) -> Path:
    """Return a corruption's folder, in one named after its archive or not. Raises FileNotFoundError: there is none."""
    archive = next(archive for archive, names in ARCHIVES.items() if corruption in names)
    for path in (folder / corruption / str(severity), folder / archive / corruption / str(severity)):
        if path.is_dir():
            return path
    raise missing("imagenet-c", f"it contains no {corruption}/{severity}, which is in {archive}.tar", folder)


def _first_corruption(folder: Path) -> tuple[str, int]:
    for corruption in CORRUPTIONS:
        for severity in range(1, 6):
            try:
                corrupted(folder, corruption, severity)
                return corruption, severity
            except FileNotFoundError:
                continue
    raise missing("imagenet-c", "it contains none of the corruptions, such as gaussian_noise/5", folder)


def _objectnet(folder: Path) -> LabelledFiles:
    """Return its images of the classes that ImageNet has too; each may correspond to several of ImageNet's classes."""
    mappings = folder / "mappings"
    try:
        object_of = json.loads((mappings / "folder_to_objectnet_label.json").read_text(encoding="utf-8"))
        imagenet_of = json.loads((mappings / "objectnet_to_imagenet_1k.json").read_text(encoding="utf-8"))
        lines = (mappings / "imagenet_to_label_2012_v2").read_text(encoding="utf-8").splitlines()
        line_of = json.loads((mappings / "pytorch_to_imagenet_2012_id.json").read_text(encoding="utf-8"))
        number_of = {lines[int(line)].strip(): int(index) for index, line in line_of.items()}
        numbers_of = {
            name: sorted(number_of[description.strip()] for description in imagenet_of[label].split(";"))
            for name, label in sorted(object_of.items())
            if label in imagenet_of
        }
    except FileNotFoundError as error:
        raise missing("objectnet", f"{error.filename} is missing", folder) from error
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{mappings} does not contain ObjectNet's mappings as published ({error!r})") from error
    classes = sorted({number for numbers in numbers_of.values() for number in numbers})
    label_of = {number: label for label, number in enumerate(classes)}
    paths, labels, accepted = [], [], {}
    for name, numbers in numbers_of.items():
        if not (folder / "images" / name).is_dir():
            raise missing("objectnet", f"the class folder images/{name} is missing", folder)
        files = image_files(folder / "images" / name)
        label = label_of[numbers[0]]
        paths += files
        labels += [label] * len(files)
        accepted[label] = frozenset(label_of[number] for number in numbers)
    order = interleave_classes(labels, len(classes))
    # Each image has a red frame, two pixels wide, as a reminder not to train on it; ObjectNet's authors cut it off.
    return LabelledFiles([paths[i] for i in order], [labels[i] for i in order], classes, accepted, border=2)
