"""Diffusion-TTA: test-time adaptation of discriminative models by generative feedback (arXiv 2311.16102).

    import torch, dtta

    problem = dtta.load("digits")
    image, label = problem.image(0, shift="fog", severity=3)
    optimizer = torch.optim.SGD(dtta.select(problem.model), lr=5e-3, momentum=0.9)
    tta = dtta.DiffusionTTA(problem.model, problem.diffusion, problem.condition, optimizer)
    print(tta(image).softmax(1))

The names below are all that most uses need; the rest is in the modules.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dtta.adapt import DiffusionTTA
    from dtta.parameters import select
    from dtta.problems import load
    from dtta.sampling import Sampling

__all__ = ["DiffusionTTA", "Sampling", "load", "select"]
__version__ = "0.1.0"

_HOME = {"DiffusionTTA": "adapt", "Sampling": "sampling", "load": "problems", "select": "parameters"}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: the course's checks need torch alone, which loads in a second."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"dtta.{_HOME[name]}"), name)
    return value
