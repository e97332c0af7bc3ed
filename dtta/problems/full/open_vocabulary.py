"""Open vocabulary at full scale: OpenAI's CLIP with Stable Diffusion 1.5, on public data sets (paper, Table 3)."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets
from transformers import CLIPModel, CLIPTokenizer

from dtta.core.conditions import ClassMixture
from dtta.core.problem import Problem
from dtta.problems.corruptions import IMAGE_SHIFTS, apply_shift
from dtta.problems.data import hub
from dtta.problems.data import imagenet as imagenet_data
from dtta.problems.data.folders import check_counts, data_folder, one_line
from dtta.problems.data.images import center_square, interleave_classes, no_labels, open_image
from dtta.problems.full.stable_diffusion import DIFFUSIONS, load_stable_diffusion, requirement
from dtta.problems.networks.clip import ClipClassifier, check_names
from dtta.problems.networks.wrappers import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["DIFFUSIONS", "load_clip", "load_stable_diffusion", "problem"]

NETWORKS = hub.checkpoints("open-vocabulary-networks")
# The paper's settings: LoRA on queries and values of the vision tower, 5 steps of 180 pairs, SGD; it does not state the
# rank. Other methods have their defaults (dtta.methods), but TENT adapts the same LoRA. None of these were chosen on
# validation images here.
SETTINGS: dict[str, dict] = {
    "diffusion-tta": dict(trainable="lora", rank=16, steps=5, samples=180, optimizer="sgd", lr=5e-3),
    "tent": dict(trainable="lora", rank=16),
    "tpt": {},
    "diffusion-classifier": dict(samples=48),
    "ensemble": dict(samples=48),
}
# The authors' released code; the paper's prompt is ClipClassifier's own, for all data sets
RELEASED = dict(templates=("a photo of a {}.",), mean=IMAGENET_MEAN, std=IMAGENET_STD, unit=False)
RELEASED_SAMPLES = 192


@dataclass(frozen=True)
class DataSet:
    """A data set that torchvision reads, or ImageNet, which ``dtta.problems.data.imagenet`` reads.

    Args:
        kind, splits: torchvision's class, and its arguments for "validation" (of the training part) and "test".
        images: how many images of each split were published.
    """

    kind: str
    splits: dict[str, dict] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)

    def read(self) -> dict:
        """Return the data set for each split. Raises FileNotFoundError if the data are missing."""
        if self.kind == "ImageNet":
            test = imagenet_data.read("imagenet", imagenet_data.root("imagenet"))
            training = imagenet_data.training_images(tuple(test.classes))
            return {"test": test} | ({"validation": training} if training else {})
        kind, root = getattr(datasets, self.kind), data_folder()
        try:
            return {split: kind(str(root), **arguments) for split, arguments in self.splits.items()}
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(
                f"{self.kind} is not in {root} ({one_line(error)}); to get it: {self.command}"
            ) from error

    @property
    def command(self) -> str:
        """The command that downloads it with torchvision, which does not download a part that is there again."""
        code = f"from torchvision.datasets import {self.kind} as D; D({str(data_folder())!r}, download=True)"
        return f'python -c "{code}"'


_TABLE = tomllib.loads(Path(__file__).with_name("open_vocabulary.toml").read_text(encoding="utf-8"))
DATA_SETS = {f"open-vocabulary-{name}": DataSet(**entry) for name, entry in _TABLE.items()}


def _class_names(data) -> list[str]:
    """Return the names in plain words."""
    if isinstance(data, imagenet_data.LabelledFiles):
        return list(imagenet_data.class_names(data.classes))
    return [name.replace("_", " ").strip() for name in data.classes]


def check_data(name: str, cells: object = None) -> None:
    """Raise FileNotFoundError if data are missing, IncompleteError if there are fewer images than were published.

    `cells`: not used; all shifts change the same images.
    """
    source = DATA_SETS[name]
    if source.kind == "ImageNet":
        return imagenet_data.check_data("imagenet")
    counts = {}
    for split, data in source.read().items():
        files = getattr(data, "_image_files", getattr(data, "_images", None))  # CIFAR-100 is one file, and is checked
        present = len(data) if files is None else sum(Path(file).is_file() for file in files)
        counts[f"{split} images"] = (present, source.images[split])
    check_counts(name, data_folder(), counts, f"delete its folder there, then {source.command}")


def problem(
    network: str | None = None,
    diffusion: str | None = None,
    classes: int | Sequence[str] | None = None,
    as_released: bool = False,
    *,
    name: str,
) -> Problem:
    """Return one of the data sets, with CLIP and Stable Diffusion 1.5.

    Args:
        network: "clip-vit-base-patch32" (default), "clip-vit-base-patch16", "clip-vit-large-patch14", or the path of
            a folder with a ``CLIPModel`` and its tokenizer.
        diffusion: "stable-diffusion-1.5", "stable-diffusion-3-medium", or the path of a folder in the layout of a
            pipeline of Stable Diffusion 1 or 3.
        classes: how many of its classes (None: all), or names of your own, for images of your own without the data set.
        as_released: as the authors' code: a prompt with a full stop, 192 pairs by default, images resized and cropped
            for CLIP (bilinear) and enlarged from there for Stable Diffusion, and CLIP's logits with ImageNet's mean and
            standard deviation, and image embeddings that are not normalised. The belief is far more confident, the
            gradients are smaller; for given pixels and prompts the predicted class is the same.

    Raises ValueError: unknown names; FileNotFoundError: the data are missing; ``WeightsError``: a checkpoint is missing
    or damaged, or cannot be downloaded.
    """
    source = DATA_SETS[name]
    own_names = isinstance(classes, Sequence)
    if own_names:
        names, splits = check_names(classes), {}
    else:
        splits = source.read()
        names = _class_names(splits["test"])
        if classes is not None and not 2 <= classes <= len(names):
            raise ValueError(f"classes must lie between 2 and {len(names)}, not {classes!r}")
        names = names[:classes]
    clip, tokenizer = load_clip(network)
    phi, reader = load_stable_diffusion(diffusion)
    target = hub.device()
    reader.encoder.to(target)
    order = {split: interleave_classes(_labels(data), len(names)) for split, data in splits.items()}
    size, interpolation, settings = phi.image_size, "bicubic", SETTINGS
    if as_released:
        size, interpolation = clip.config.vision_config.image_size, "bilinear"
        settings = SETTINGS | {"diffusion-tta": SETTINGS["diffusion-tta"] | dict(samples=RELEASED_SAMPLES)}
    model = ClipClassifier(clip.to(target), tokenizer, names, **RELEASED if as_released else {})
    return Problem(
        name=name,
        task="classification",
        classes=tuple(names),
        model=model,
        diffusion=phi.to(target),
        condition=ClassMixture(reader([model.template.format(name) for name in names])),
        draw=no_labels if own_names else partial(_draw, splits, order, size, interpolation, target),
        sizes={split: len(order.get(split, [0])) for split in splits or ("validation", "test")},
        shape=(3, size, size),
        shifts=tuple(IMAGE_SHIFTS),
        metric="accuracy",
        score=lambda output, label: float(output.argmax(dim=1).item() == label.item()),
        settings=settings,
        reader=reader,
        view=partial(center_square, size=size, interpolation=interpolation),
    )


def requirements(name: str, network: str | None, diffusion: str | None) -> hub.Requirements:
    """Return the checkpoints that a problem needs, and a function that raises FileNotFoundError if data are missing."""
    checkpoints = [hub.require("network", network, NETWORKS), requirement(diffusion)]
    return checkpoints, partial(check_data, name)


def load_clip(network: str | None = None) -> tuple[CLIPModel, CLIPTokenizer]:
    """Return a CLIP model and its tokenizer, by name or from a folder. Raises as `problem`."""
    location = hub.locate(network, NETWORKS)
    return hub.load_part(CLIPModel, location), hub.load_part(CLIPTokenizer, location)


def _labels(data) -> list[int]:
    """Return the label of each image, without opening the images."""
    for attribute in ("_labels", "targets", "labels"):
        if hasattr(data, attribute):
            return [int(label) for label in getattr(data, attribute)]
    raise TypeError(f"{type(data).__name__} has no list of labels")


def _draw(splits, order, size, interpolation, target, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    data, number = splits[split], order[split][index]
    files = getattr(data, "_image_files", getattr(data, "_images", None))  # None: not torchvision, or arrays
    image, label = (open_image(Path(files[number])), _labels(data)[number]) if files else data[number]
    image = apply_shift(center_square(image, size, interpolation), shift, severity, seed, index, IMAGE_SHIFTS)
    return image.to(target), torch.tensor(label)
