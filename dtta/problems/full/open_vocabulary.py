"""Open vocabulary at full scale: OpenAI's CLIP with Stable Diffusion 1.5, on public data sets (paper, Table 3).

Checkpoints come from the Hugging Face hub, or from a folder in its layout: give the folder's path instead of a name.
Data sets are read by torchvision from $DTTA_DATA or ~/.cache/dtta/data, in the published layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision import datasets
from transformers import CLIPModel, CLIPTokenizer

from dtta.core.conditions import ClassMixture
from dtta.core.problem import Problem, no_labels
from dtta.problems.corruptions import IMAGE_SHIFTS, apply_shift
from dtta.problems.data import hub
from dtta.problems.data.folders import data_folder, one_line
from dtta.problems.data.images import center_square, interleave_classes
from dtta.problems.full.stable_diffusion import DIFFUSIONS, load_stable_diffusion
from dtta.problems.networks.clip import TEMPLATES, ClipClassifier, check_names
from dtta.problems.networks.wrappers import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["DIFFUSIONS", "load_clip", "load_stable_diffusion", "problem"]

# The commits of the two base models contain no safetensors: transformers then reads the conversion that the hub's bot
# offers as a pull request.
NETWORKS = {
    "clip-vit-base-patch32": hub.Checkpoint(
        "openai/clip-vit-base-patch32", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", 0.6
    ),
    "clip-vit-base-patch16": hub.Checkpoint(
        "openai/clip-vit-base-patch16", "57c216476eefef5ab752ec549e440a49ae4ae5f3", 0.6
    ),
    "clip-vit-large-patch14": hub.Checkpoint(
        "openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41", 1.7
    ),
}
# The paper's settings: LoRA on queries and values of the vision tower, 5 steps of 192 pairs, SGD; it does not state the
# rank. Other methods have their defaults (dtta.methods), but TENT adapts the same LoRA. None of these were chosen on
# validation images here.
SETTINGS: dict[str, dict] = {
    "diffusion-tta": dict(trainable="lora", rank=16, steps=5, samples=192, micro_batch=8, optimizer="sgd", lr=5e-3),
    "tent": dict(trainable="lora", rank=16),
    "tpt": {},
    "diffusion-classifier": dict(samples=48),
    "ensemble": dict(samples=48),
}
RELEASED = dict(mean=IMAGENET_MEAN, std=IMAGENET_STD, unit=False)  # the authors' released code
RECIPES: dict = {}  # nothing to train: the checkpoints are public


@dataclass(frozen=True)
class DataSet:
    """A data set that torchvision reads.

    Args:
        kind: the torchvision class.
        splits: its arguments for "validation" and "test"; validation images come from the training part.
        names: data set -> class names in plain words.
        templates: prompts of CLIP's authors for this data set; the paper uses "a photo of a <class>" for all.
    """

    kind: type
    splits: dict[str, dict]
    names: Callable[[object], Sequence[str]]
    templates: tuple[str, ...] = TEMPLATES


def _plain_names(data) -> list[str]:
    return [name.replace("_", " ").strip() for name in data.classes]


def _first_synonyms(data) -> list[str]:
    """Return the first of each class's names, with the second if two classes share the first."""
    first = [synonyms[0] for synonyms in data.classes]
    return [names[0] if first.count(names[0]) == 1 else ", ".join(names[:2]) for names in data.classes]


_train_test = {"validation": dict(split="train"), "test": dict(split="test")}
DATA_SETS: dict[str, DataSet] = {
    "open-vocabulary-food101": DataSet(
        datasets.Food101, _train_test, _plain_names, ("a photo of {}, a type of food",)
    ),
    "open-vocabulary-cifar100": DataSet(
        datasets.CIFAR100, {"validation": dict(train=True), "test": dict(train=False)}, _plain_names
    ),
    "open-vocabulary-aircraft": DataSet(
        datasets.FGVCAircraft, _train_test, _plain_names, ("a photo of a {}, a type of aircraft",)
    ),
    "open-vocabulary-pets": DataSet(
        datasets.OxfordIIITPet,
        {"validation": dict(split="trainval"), "test": dict(split="test")},
        _plain_names,
        ("a photo of a {}, a type of pet",),
    ),
    "open-vocabulary-flowers102": DataSet(
        datasets.Flowers102, _train_test, _plain_names, ("a photo of a {}, a type of flower",)
    ),
    "open-vocabulary-imagenet": DataSet(
        datasets.ImageNet, {"validation": dict(split="train"), "test": dict(split="val")}, _first_synonyms
    ),
}  # fmt: skip


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
        classes: use this many of its classes; None: all; or class names of your own for images of your own, which do
            not need the data set.
        as_released: compute CLIP's logits as the authors' released code does: ImageNet's mean and standard deviation
            instead of CLIP's, and image embeddings that are not normalised. That makes the belief far more confident
            and the gradients smaller; for given pixels the predicted class is the same.

    Raises:
        ValueError: unknown names. FileNotFoundError: the data are missing.
        dtta.problems.training.weights.WeightsError: a checkpoint is missing or damaged, or cannot be downloaded.
    """
    source = DATA_SETS[name]
    own_names = isinstance(classes, Sequence)
    if own_names:
        names, splits = check_names(classes), {}
    else:
        splits = {split: _read(source.kind, options) for split, options in source.splits.items()}
        names = list(source.names(splits["test"]))
        if classes is not None and not 2 <= classes <= len(names):
            raise ValueError(f"classes must lie between 2 and {len(names)}, not {classes!r}")
        names = names[:classes]
    clip, tokenizer = load_clip(network)
    phi, reader = load_stable_diffusion(diffusion)
    target = hub.device()
    reader.encoder.to(target)
    template = source.templates[0]
    order = {split: interleave_classes(_labels(data), len(names)) for split, data in splits.items()}
    size = phi.image_size
    options = RELEASED if as_released else {}
    return Problem(
        name=name,
        task="classification",
        classes=tuple(names),
        model=ClipClassifier(clip.to(target), tokenizer, names, source.templates, **options),
        diffusion=phi.to(target),
        condition=ClassMixture(reader([template.format(name) for name in names])),
        draw=no_labels if own_names else partial(_draw, splits, order, size, target),
        sizes={split: len(order.get(split, [0])) for split in source.splits},
        shape=(3, size, size),
        shifts=tuple(IMAGE_SHIFTS),
        metric="accuracy",
        score=lambda output, label: float(output.argmax(dim=1).item() == label.item()),
        settings=_settings(len(template.partition("{}")[0].split())),
        reader=reader,
    )


def requirements(name: str, network: str | None, diffusion: str | None) -> hub.Requirements:
    """Return the checkpoints that a problem needs, and a function that raises FileNotFoundError if data are missing."""
    parts = DIFFUSIONS["stable-diffusion-1.5"].parts
    checkpoints = [hub.require("network", network, NETWORKS), hub.require("diffusion", diffusion, DIFFUSIONS, parts)]
    source = DATA_SETS[name]
    return checkpoints, lambda: [_read(source.kind, options) for options in source.splits.values()]


def _settings(words: int) -> dict[str, dict]:
    """Return the settings; `words`: words before the class name in the prompt, which prompt tuning can adapt."""
    prompted = {method: dict(SETTINGS[method], words=words) for method in ("diffusion-tta", "tpt")}
    return {**SETTINGS, **prompted}


def load_clip(network: str | None = None) -> tuple[CLIPModel, CLIPTokenizer]:
    """Return a CLIP model and its tokenizer, by name or from a folder. Raises as `problem`."""
    location = hub.locate(network, NETWORKS)
    return hub.load_part(CLIPModel, location), hub.load_part(CLIPTokenizer, location)


# --- data ---------------------------------------------------------------------------------------------


def _read(kind: type, options: dict):
    root = data_folder()
    try:
        return kind(str(root), **options)
    except (RuntimeError, OSError) as error:
        if kind is datasets.ImageNet:
            advice = "see torchvision's documentation of ImageNet"
        else:
            code = f"from torchvision.datasets import {kind.__name__} as D; D({str(root)!r}, download=True)"
            advice = f'python -c "{code}"'
        reason = one_line(error)
        raise FileNotFoundError(f"{kind.__name__} is not in {root} ({reason}); to get it: {advice}") from error


def _labels(data) -> list[int]:
    """Return the label of each image, without opening the images."""
    for attribute in ("_labels", "targets"):
        if hasattr(data, attribute):
            return [int(label) for label in getattr(data, attribute)]
    raise TypeError(f"{type(data).__name__} has no list of labels")


def _draw(splits, order, size, target, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    image, label = splits[split][order[split][index]]
    image = apply_shift(center_square(image, size), shift, severity, seed, index, IMAGE_SHIFTS)
    return image.to(target), torch.tensor(label)
