"""Worlds, data, models and metrics, bound together under a name."""

from __future__ import annotations

import importlib
from types import ModuleType

from dtta.problems.problem import Problem

# The module of each problem; it has problem(network, diffusion) and RECIPES, how its models are made.
PROBLEMS = {
    "digits": "dtta.problems.digits",
    "scenes-segmentation": "dtta.problems.scenes.segmentation",
    "scenes-depth": "dtta.problems.scenes.depth",
}


def load(name: str, network: str | None = None, diffusion: str | None = None) -> Problem:
    """Load a problem by name, with another task network or diffusion model than its usual ones if named.

    >>> load("digits").classes[3]
    '3'

    Raises:
        ValueError: unknown problem, network or diffusion model.
        dtta.problems.weights.WeightsError: its weights are missing or damaged.
    """
    return module(name).problem(network, diffusion)


def module(name: str) -> ModuleType:
    """The module that a problem lives in. Raises ValueError if there is no such problem."""
    if name not in PROBLEMS:
        raise ValueError(f"unknown problem {name!r}; choose from {', '.join(PROBLEMS)}")
    return importlib.import_module(PROBLEMS[name])
