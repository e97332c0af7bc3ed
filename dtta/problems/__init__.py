"""Worlds, data, models and metrics, bound together under a name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from dtta.problems.problem import Problem

if TYPE_CHECKING:
    from dtta.problems.recipes import Recipe

# The module of each problem; it has problem(network, diffusion) and RECIPES, how its shipped models are made. One whose
# models are trained on the user's data has a function recipes(name) too.
PROBLEMS = {
    "digits": "dtta.problems.digits",
    "scenes-segmentation": "dtta.problems.scenes.segmentation",
    "scenes-depth": "dtta.problems.scenes.depth",
    "scenes-clip": "dtta.problems.scenes.clip",
    **dict.fromkeys(
        (
            "open-vocabulary-food101",
            "open-vocabulary-cifar100",
            "open-vocabulary-aircraft",
            "open-vocabulary-pets",
            "open-vocabulary-flowers102",
            "open-vocabulary-imagenet",
        ),
        "dtta.problems.open_vocabulary",
    ),
    **dict.fromkeys(
        (
            "imagenet",
            "imagenet-a",
            "imagenet-r",
            "imagenet-c",
            "imagenet-v2",
            "imagenet-s",
            "imagenet-sketch",
            "objectnet",
        ),
        "dtta.problems.imagenet",
    ),
    **dict.fromkeys(("ade20k", "own-segmentation"), "dtta.problems.ade20k"),
    **dict.fromkeys(("nyuv2", "own-depth"), "dtta.problems.nyuv2"),
}


def load(
    name: str,
    network: str | None = None,
    diffusion: str | None = None,
    classes: int | Sequence[str] | None = None,
) -> Problem:
    """Load a problem by name, with another task network or diffusion model than its usual ones if named.

    >>> load("digits").classes[3]
    '3'

    Args:
        classes: for a problem with an open vocabulary: how many of its names, or names of your own; None: its
            usual ones.

    Raises:
        ValueError: unknown problem, network or diffusion model; classes where they are fixed.
        dtta.problems.weights.WeightsError: its weights are missing or damaged.
    """
    make = module(name).problem
    takes = inspect.signature(make).parameters
    if classes is not None and "classes" not in takes:
        raise ValueError(f"the classes of {name} are fixed")
    options = {"name": name} if "name" in takes else {}  # a module of several problems
    if classes is not None:
        options["classes"] = classes
    return make(network, diffusion, **options)


def module(name: str) -> ModuleType:
    """The module that a problem lives in. Raises ValueError if there is no such problem."""
    if name not in PROBLEMS:
        raise ValueError(f"unknown problem {name!r}; choose from {', '.join(PROBLEMS)}")
    return importlib.import_module(PROBLEMS[name])


def recipes_of(name: str) -> Mapping[str, Recipe]:
    """How a problem's models are made, by their names; empty if nothing of it is trained.

    Raises:
        ValueError: unknown problem. FileNotFoundError: it is trained on data that are not there.
    """
    found = module(name)
    return found.recipes(name) if hasattr(found, "recipes") else found.RECIPES
