"""Worlds, data, models and metrics, bound together under a name."""

from __future__ import annotations

import importlib

from dtta.problems.problem import Problem

PROBLEMS = {"digits": "dtta.problems.digits"}


def load(name: str, network: str | None = None, diffusion: str | None = None) -> Problem:
    """Load a problem by name, with another task network or diffusion model than its usual ones if named.

    >>> load("digits").classes[3]
    '3'

    Raises:
        ValueError: unknown problem, network or diffusion model.
        dtta.problems.weights.WeightsError: its weights are missing or damaged.
    """
    if name not in PROBLEMS:
        raise ValueError(f"unknown problem {name!r}; choose from {', '.join(PROBLEMS)}")
    return importlib.import_module(PROBLEMS[name]).problem(network, diffusion)
