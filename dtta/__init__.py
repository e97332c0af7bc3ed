"""Diffusion-TTA: test-time adaptation of discriminative models by generative feedback (arXiv 2311.16102).

    import torch, dtta

    problem = dtta.load("digits")
    image, label = problem.image(0, shift="fog", severity=3)
    optimizer = torch.optim.SGD(dtta.select(problem.model), lr=5e-3, momentum=0.9)
    tta = dtta.DiffusionTTA(problem.model, problem.diffusion, problem.condition, optimizer)
    print(tta(image).softmax(1))

The rooms, from the bottom up: ``core`` (the method), ``methods`` and ``problems``, ``evaluation``, ``experiments``,
``profiling``, ``pages``, ``course``, ``cli``. Each imports only rooms below it. The names below are all that most uses
need; they are imported when they are first used, so that ``import dtta`` loads neither torch nor diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dtta.core.conditions import ClassMixture, DepthMap, PixelMixture, RelativeDepth, Tempered
    from dtta.core.diffusion import ClassUNet, ConcatUNet, ControlledUNet, Diffusion, DiT, TextUNet
    from dtta.core.parameters import select
    from dtta.core.problem import Problem
    from dtta.core.sampling import Sampling
    from dtta.core.stopping import Stopping
    from dtta.core.tta import DiffusionTTA
    from dtta.evaluation.evaluate import evaluate
    from dtta.evaluation.run import Run
    from dtta.methods.registry import build
    from dtta.pages.probe import probe
    from dtta.problems.own.build import problem
    from dtta.problems.registry import load

__version__ = "0.1.0"

_MODULES = {
    "core.tta": ("DiffusionTTA",),
    "core.sampling": ("Sampling",),
    "core.stopping": ("Stopping",),
    "core.parameters": ("select",),
    "core.problem": ("Problem",),
    "core.conditions": ("ClassMixture", "DepthMap", "PixelMixture", "RelativeDepth", "Tempered"),
    "core.diffusion": ("ClassUNet", "ConcatUNet", "ControlledUNet", "Diffusion", "DiT", "TextUNet"),
    "methods.registry": ("build",),
    "problems.own.build": ("problem",),
    "problems.registry": ("load",),
    "evaluation.run": ("Run",),
    "evaluation.evaluate": ("evaluate",),
    "pages.probe": ("probe",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    """Import a name when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"dtta.{_MODULE_OF[name]}"), name)
    return value
