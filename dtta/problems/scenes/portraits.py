"""The portraits as a data set: each image shows one object from near, whose kind is a label of the vocabulary."""

from __future__ import annotations

from functools import cache, lru_cache
from random import Random

import torch
from torch import Tensor

from dtta.problems.scenes import words
from dtta.problems.scenes.data import WORLD, draw_one, number_in_world, rendered
from dtta.problems.scenes.shifts import shift_image, shift_scene
from dtta.problems.scenes.words import KINDS, NAMES, SEEN, VOCABULARY
from dtta.problems.scenes.world import Scene, random_portrait

SPLITS = {"train": (0, 16000), "validation": (1_000_000, 500), "test": (2_000_000, 1000)}  # first number, count
SIZES = {name: count for name, (_, count) in SPLITS.items()}


def portrait(split: str, index: int, classes: int = len(VOCABULARY)) -> Scene:
    """Return portrait `index`: the kind with its ``label``; for training, a seen kind. Raises: see ``data.scene``."""
    number = number_in_world(SPLITS, split, index)
    kind = SEEN[index % len(SEEN)] if split == "train" else NAMES[label(index, classes)].kind
    return random_portrait(WORLD, number, kind)


def label(index: int, classes: int) -> int:
    """Return the label of portrait `index` among the first `classes` names: of several for its kind, the first."""
    return index % min(classes, len(KINDS))


def shifted(classes: int, split: str, index: int, shift: str, severity: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return portrait `index` of a split under a shift: image (3, H, W) and its label among the first `classes`."""
    return _shifted(classes, split, index, shift, severity, seed).clone(), torch.tensor(label(index, classes))


@lru_cache(maxsize=2048)  # the runs of a table share their images
def _shifted(classes: int, split: str, index: int, shift: str, severity: int, seed: int) -> Tensor:
    drawn = draw_one(shift_scene(portrait(split, index, classes), shift, severity, seed, index))
    return shift_image(drawn.image[0].clone(), shift, severity, seed, index)


@cache
def train_set() -> Tensor:
    """Return the images (N, 3, H, W) of the training split, as bytes; rendered once (seven minutes on one core)."""
    scenes = [portrait("train", i) for i in range(SPLITS["train"][1])]
    return rendered("portraits", scenes, ("image",))["image"]


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, list[str], Tensor]:
    """Return random training portraits (N, 3, H, W) in [0, 1] of different kinds, half of them mirrored.

    Also their captions, and their indices (N,) in ``words.SEEN``. Raises ValueError: size exceeds the number of kinds.
    """
    if size > len(SEEN):
        raise ValueError(f"there are {len(SEEN)} kinds of objects, not {size}")
    images = train_set()
    kinds = torch.randperm(len(SEEN), generator=generator)[:size]
    rounds = len(images) // len(SEEN)
    index = kinds + len(SEEN) * torch.randint(rounds, (size,), generator=generator)
    x = images[index].float() / 255
    mirrored = torch.rand(size, generator=generator) < 0.5
    x[mirrored] = x[mirrored].flip(-1)
    rng = Random(int(torch.randint(2**31, (), generator=generator)))
    captions = [words.caption(SEEN[k], _ground(i), rng) for k, i in zip(kinds.tolist(), index.tolist(), strict=True)]
    return x, captions, kinds


@cache
def _ground(index: int) -> str:
    return portrait("train", index).texture
