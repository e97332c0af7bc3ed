"""Methods by name: what the command line, evaluation and pages share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from torch import nn

from dtta import builders
from dtta.problems import Problem

METHODS: dict[str, Callable[..., nn.Module]] = {
    "none": builders.no_adaptation,
    "diffusion-tta": builders.diffusion_tta,
    "diffusion-classifier": builders.diffusion_classifier,
    "ensemble": builders.ensemble,
    "logits": partial(builders.diffusion_tta, part="logits"),
    "tent": builders.tent,
    "tpt": builders.marginal_entropy,
    "memo": builders.memo,
    "batch-norm": builders.batch_norm,
    "cotta": builders.cotta,
    "eata": builders.eata,
    "sar": builders.sar,
    "ttt-mae": builders.ttt_mae,
    "dusa": builders.dusa,
    "augmentation": builders.augmentation,
    "consistency": builders.consistency,
}
# A method that is not named here goes with every task.
TASKS = {
    "diffusion-classifier": ("classification",),
    "ensemble": ("classification",),
    "logits": ("classification",),
    "tent": ("classification", "segmentation"),
    **dict.fromkeys(("tpt", "memo", "cotta", "eata", "sar", "ttt-mae", "dusa"), ("classification",)),
    "augmentation": ("segmentation", "depth"),
    "consistency": ("depth",),
}


def methods_for(task: str) -> tuple[str, ...]:
    """The names of the methods that go with a task."""
    return tuple(name for name in METHODS if task in TASKS.get(name, (task,)))


def settings_of(method: str) -> tuple[str, ...]:
    """The names of the settings that a method takes."""
    function = METHODS[method]
    fixed = getattr(function, "keywords", {})
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in fixed)


def online(method: str, settings: dict) -> bool:
    """Whether a method with these settings carries its weights from image to image; some do unless told otherwise."""
    default = inspect.signature(METHODS[method]).parameters.get("episodic") if method in METHODS else None
    return not settings.get("episodic", default is None or default.default)


def build(problem: Problem, method: str, **settings) -> nn.Module:
    """A method on a problem: the problem's validated settings, overruled by those given.

    Raises:
        ValueError: unknown method or setting, or a setting out of range.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if method not in (fitting := methods_for(problem.task)):
        raise ValueError(f"{method} does not go with {problem.task}; choose from {', '.join(fitting)}")
    known = settings_of(method)
    for name in settings:
        if name not in known:
            choice = f"choose from {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"{method} has no setting {name!r}; {choice}")
    try:
        return METHODS[method](problem, **{**problem.settings.get(method, {}), **settings})
    except TypeError as error:
        raise ValueError(f"{method}: {error}") from error
