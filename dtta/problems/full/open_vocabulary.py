"""Open vocabulary at full scale: OpenAI's CLIP under Stable Diffusion 1.5, on public data sets (paper, Table 3).

Checkpoints come from the Hugging Face hub, or from a folder in its layout: give the folder's path in place of a
name. Data sets are read by torchvision from $DTTA_DATA or ~/.cache/dtta/data, in the layout they are published in.
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
from dtta.problems.data.folders import data_folder, in_turn, one_line, square
from dtta.problems.data.hub import Checkpoint, Need, device, find, need, reach, split
from dtta.problems.full.stable_diffusion import DIFFUSIONS, load_stable_diffusion
from dtta.problems.networks.clip import TEMPLATES, ClipClassifier, check_names
from dtta.problems.networks.wrappers import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["DIFFUSIONS", "load_clip", "load_stable_diffusion", "problem"]

# The two base models' commits hold no safetensors: transformers then reads the conversion that the hub keeps as a
# pull request of its own bot.
NETWORKS = {
    "clip-vit-base-patch32": Checkpoint(
        "openai/clip-vit-base-patch32", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", 0.6
    ),
    "clip-vit-base-patch16": Checkpoint(
        "openai/clip-vit-base-patch16", "57c216476eefef5ab752ec549e440a49ae4ae5f3", 0.6
    ),
    "clip-vit-large-patch14": Checkpoint(
        "openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41", 1.7
    ),
}
# The paper's: queries and values of the vision tower, 5 steps of 192 pairs, SGD; it does not state
# the rank. Other methods have their defaults (dtta.methods), but TENT moves the same LoRA. Nothing of this was chosen
# on validation images here.
SETTINGS: dict[str, dict] = {
    "diffusion-tta": dict(trainable="lora", rank=16, steps=5, samples=192, micro_batch=8, optimizer="sgd", lr=5e-3),
    "tent": dict(trainable="lora", rank=16),
    "tpt": {},
    "diffusion-classifier": dict(samples=48),
    "ensemble": dict(samples=48),
}
RELEASED = dict(mean=IMAGENET_MEAN, std=IMAGENET_STD, unit=False)  # what the authors' released code computes
RECIPES: dict = {}  # nothing to train: the checkpoints are public


@dataclass(frozen=True)
class DataSet:
    """How torchvision reads a data set.

    Args:
        kind: the torchvision class.
        splits: its arguments for "validation" and "test"; validation images come from the training part.
        names: data set -> class names as one would say them.
        templates: sentences, those of CLIP's authors for such data; the paper has "a photo of a <class>" for all.
    """

    kind: type
    splits: dict[str, dict]
    names: Callable[[object], Sequence[str]]
    templates: tuple[str, ...] = TEMPLATES


def _spoken(data) -> list[str]:
    return [name.replace("_", " ").strip() for name in data.classes]


def _first_synonyms(data) -> list[str]:
    """ImageNet's classes have several names; two first names stand for two classes each, and take their second."""
    first = [synonyms[0] for synonyms in data.classes]
    return [n if first.count(n) == 1 else ", ".join(s[:2]) for n, s in zip(first, data.classes, strict=True)]


_train_test = {"validation": dict(split="train"), "test": dict(split="test")}
DATA_SETS: dict[str, DataSet] = {
    "open-vocabulary-food101": DataSet(
        datasets.Food101, _train_test, _spoken, ("a photo of {}, a type of food",)
    ),
    "open-vocabulary-cifar100": DataSet(
        datasets.CIFAR100, {"validation": dict(train=True), "test": dict(train=False)}, _spoken
    ),
    "open-vocabulary-aircraft": DataSet(
        datasets.FGVCAircraft, _train_test, _spoken, ("a photo of a {}, a type of aircraft",)
    ),
    "open-vocabulary-pets": DataSet(
        datasets.OxfordIIITPet,
        {"validation": dict(split="trainval"), "test": dict(split="test")},
        _spoken,
        ("a photo of a {}, a type of pet",),
    ),
    "open-vocabulary-flowers102": DataSet(
        datasets.Flowers102, _train_test, _spoken, ("a photo of a {}, a type of flower",)
    ),
    "open-vocabulary-imagenet": DataSet(
        datasets.ImageNet, {"validation": dict(split="train"), "test": dict(split="val")}, _first_synonyms
    ),
}  # fmt: skip


def problem(
    network: str | None = None,
    diffusion: str | None = None,
    classes: int | Sequence[str] | None = None,
    *,
    name: str,
) -> Problem:
    """One of the data sets, under CLIP and Stable Diffusion 1.5.

    Args:
        network: "clip-vit-base-patch32" (the usual one), "clip-vit-base-patch16", "clip-vit-large-patch14", or the
            path of a folder that holds a ``CLIPModel`` and its tokenizer. With "+released" at its end it computes
            what the authors' released code does: ImageNet's mean and standard deviation instead of CLIP's, and an
            image's vector that is not brought to length one, which makes its beliefs far surer and its gradients
            smaller, and the answer the same.
        diffusion: "stable-diffusion-1.5", or the path of a folder in a Stable Diffusion pipeline's layout.
        classes: the first so many of its classes; None: all; or names of your own, for images of your own: then
            the data set is not needed.

    Raises:
        ValueError: unknown names. FileNotFoundError: the data are not there.
        dtta.problems.training.weights.WeightsError: a checkpoint is missing, damaged, or cannot be reached.
    """
    source = DATA_SETS[name]
    own = isinstance(classes, Sequence)
    if own:
        names, splits = check_names(classes), {}
    else:
        splits = {split: _read(source.kind, options) for split, options in source.splits.items()}
        names = list(source.names(splits["test"]))
        if classes is not None and not 2 <= classes <= len(names):
            raise ValueError(f"classes must lie between 2 and {len(names)}, not {classes!r}")
        names = names[:classes]
    plain, released = split(network)
    clip, words = load_clip(plain)
    phi, read = load_stable_diffusion(diffusion)
    where = device()
    read.encoder.to(where)
    template = source.templates[0]
    order = {split: in_turn(_labels(data), len(names)) for split, data in splits.items()}
    size = phi.image_size
    return Problem(
        name=name,
        task="classification",
        classes=tuple(names),
        model=ClipClassifier(clip.to(where), words, names, source.templates, **(RELEASED if released else {})),
        diffusion=phi.to(where),
        condition=ClassMixture(read([template.format(name) for name in names])),
        draw=no_labels if own else partial(_draw, splits, order, size, where),
        sizes={split: len(order.get(split, [0])) for split in source.splits},
        shape=(3, size, size),
        shifts=tuple(IMAGE_SHIFTS),
        metric="accuracy",
        score=lambda output, label: float(output.argmax(dim=1).item() == label.item()),
        settings=_with_words(len(template.partition("{}")[0].split())),
        reader=read,
    )


def needs(name: str, network: str | None, diffusion: str | None) -> tuple[list[Need], Callable[[], object]]:
    """What a problem asks of a machine: checkpoints, and a function that raises where data are missing."""
    parts = DIFFUSIONS["stable-diffusion-1.5"].parts
    asked = [need("network", network, NETWORKS), need("diffusion", diffusion, DIFFUSIONS, parts)]
    source = DATA_SETS[name]
    return asked, lambda: [_read(source.kind, options) for options in source.splits.values()]


def _with_words(count: int) -> dict[str, dict]:
    """The settings, where words of the prompt can move: those that the template has before the name."""
    moving = {method: dict(SETTINGS[method], words=count) for method in ("diffusion-tta", "tpt")}
    return {**SETTINGS, **moving}


def load_clip(network: str | None = None) -> tuple[CLIPModel, CLIPTokenizer]:
    """A CLIP and its tokenizer, by name or from a folder. Raises as `problem` does."""
    where = find(network, NETWORKS)
    return reach(CLIPModel, where), reach(CLIPTokenizer, where)


# --- data ---------------------------------------------------------------------------------------------


def _read(kind: type, options: dict):
    root = data_folder()
    try:
        return kind(str(root), **options)
    except (RuntimeError, OSError) as error:
        told = one_line(error)
        how = "see torchvision's page on it" if kind is datasets.ImageNet else (
            f'python -c "from torchvision.datasets import {kind.__name__} as D; D({str(root)!r}, download=True)"'
        )  # fmt: skip
        raise FileNotFoundError(f"{kind.__name__} is not in {root} ({told}); to get it: {how}") from error


def _labels(data) -> list[int]:
    """The label of each image, without opening the images."""
    for attribute in ("_labels", "targets"):
        if hasattr(data, attribute):
            return [int(label) for label in getattr(data, attribute)]
    raise TypeError(f"{type(data).__name__} does not tell its labels")


def _draw(splits, order, size, where, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    picture, label = splits[split][order[split][index]]
    image = apply_shift(square(picture, size), shift, severity, seed, index, IMAGE_SHIFTS)
    return image.to(where), torch.tensor(label)
