"""Open vocabulary at full scale: OpenAI's CLIP with Stable Diffusion 1.5, on public data sets (paper, Table 3)."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets
from transformers import CLIPModel, CLIPTokenizer

from dtta.core.conditions import ClassMixture
from dtta.core.problem import Problem, no_labels
from dtta.problems.corruptions import IMAGE_SHIFTS, apply_shift
from dtta.problems.data import hub
from dtta.problems.data.folders import data_folder, one_line
from dtta.problems.data.imagenet import class_names, synsets
from dtta.problems.data.images import center_square, interleave_classes, open_image
from dtta.problems.full.stable_diffusion import DIFFUSIONS, load_stable_diffusion
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
RECIPES: dict = {}  # nothing to train: the checkpoints are public


@dataclass(frozen=True)
class DataSet:
    """A data set that torchvision reads.

    Args:
        kind, splits: torchvision's class, and its arguments for "validation" (of the training part) and "test".
    """

    kind: str
    splits: dict[str, dict]

    def read(self) -> dict:
        """Return torchvision's data set for each split. Raises FileNotFoundError if the data are missing."""
        kind, root = getattr(datasets, self.kind), data_folder()
        try:
            return {split: kind(str(root), **arguments) for split, arguments in self.splits.items()}
        except (RuntimeError, OSError) as error:
            if kind is datasets.ImageNet:
                advice = "see torchvision's documentation of ImageNet"
            else:
                code = f"from torchvision.datasets import {self.kind} as D; D({str(root)!r}, download=True)"
                advice = f'python -c "{code}"'
            reason = one_line(error)
            raise FileNotFoundError(f"{self.kind} is not in {root} ({reason}); to get it: {advice}") from error


_TABLE = tomllib.loads(Path(__file__).with_name("open_vocabulary.toml").read_text(encoding="utf-8"))
DATA_SETS = {f"open-vocabulary-{name}": DataSet(**entry) for name, entry in _TABLE.items()}


def _class_names(data) -> list[str]:
    """Return the names in plain words; ImageNet's all differ (see ``class_names``)."""
    if isinstance(data.classes[0], str):
        return [name.replace("_", " ").strip() for name in data.classes]
    return list(class_names([synsets().index(wnid) for wnid in data.wnids]))


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
        diffusion: "stable-diffusion-1.5", or the path of a folder in a Stable Diffusion pipeline's layout.
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
        sizes={split: len(order.get(split, [0])) for split in source.splits},
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
    checkpoints = [hub.require("network", network, NETWORKS), hub.require("diffusion", diffusion, DIFFUSIONS)]
    return checkpoints, DATA_SETS[name].read


def load_clip(network: str | None = None) -> tuple[CLIPModel, CLIPTokenizer]:
    """Return a CLIP model and its tokenizer, by name or from a folder. Raises as `problem`."""
    location = hub.locate(network, NETWORKS)
    return hub.load_part(CLIPModel, location), hub.load_part(CLIPTokenizer, location)


def _labels(data) -> Sequence[int]:
    """Return the label of each image, without opening the images."""
    for attribute in ("_labels", "targets"):
        if hasattr(data, attribute):
            return getattr(data, attribute)
    raise TypeError(f"{type(data).__name__} has no list of labels")


def _draw(splits, order, size, interpolation, target, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    data, number = splits[split], order[split][index]
    files = getattr(data, "_image_files", getattr(data, "_images", None))  # None: not torchvision, or arrays
    image, label = (open_image(Path(files[number])), _labels(data)[number]) if files else data[number]
    image = apply_shift(center_square(image, size, interpolation), shift, severity, seed, index, IMAGE_SHIFTS)
    return image.to(target), torch.tensor(label)
