"""Methods by name; others as "package.module:build", or by a package's entry point in the group dtta.methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dtta.core import plugins
from dtta.methods.types import check_type

if TYPE_CHECKING:
    from torch import nn

    from dtta.core.problem import Problem

GROUP = "dtta.methods"  # of entry points
METHODS = {
    "none": "dtta.methods.none:build",
    "diffusion-tta": "dtta.methods.diffusion_tta:build",
    "diffusion-classifier": "dtta.methods.diffusion_classifier:build",
    "ensemble": "dtta.methods.ensemble:build",
    "logits": "dtta.methods.diffusion_tta:build_logits",
    "diffusion-posterior": "dtta.methods.diffusion_posterior:build",
    "tent": "dtta.methods.tent:build",
    "tpt": "dtta.methods.marginal_entropy:build_tpt",
    "memo": "dtta.methods.marginal_entropy:build_memo",
    "batch-norm": "dtta.methods.batch_norm:build",
    "cotta": "dtta.methods.cotta:build",
    "eata": "dtta.methods.eata:build",
    "sar": "dtta.methods.sar:build",
    "ttt-mae": "dtta.methods.ttt_mae:build",
    "dusa": "dtta.methods.dusa:build",
    "augmentation": "dtta.methods.augmentation:build",
    "consistency": "dtta.methods.consistency:build",
}
# The tasks of each method; one that is not named here suits all.
TASKS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("diffusion-classifier", "ensemble", "logits", "diffusion-posterior"), ("classification",)),
    **dict.fromkeys(("tpt", "memo", "cotta", "eata", "sar", "ttt-mae", "dusa"), ("classification",)),
    "tent": ("classification", "segmentation"),
    "augmentation": ("segmentation", "depth"),
    "consistency": ("depth",),
}


def builder(method: str) -> Callable[..., nn.Module]:
    """Return the function that builds a method from a problem and settings. Raises ValueError: unknown method."""
    return plugins.find("method", method, METHODS, GROUP)


def methods_for(task: str) -> tuple[str, ...]:
    """Return the names of the methods that suit a task."""
    return tuple(name for name in METHODS if task in TASKS.get(name, (task,)))


def settings_of(method: str) -> dict[str, object]:
    """Return the settings that a method takes, with their defaults."""
    return {name: parameter.default for name, parameter in _parameters(method).items()}


def _parameters(method: str) -> dict[str, inspect.Parameter]:
    function = builder(method)
    fixed = getattr(function, "keywords", {})  # of a functools.partial
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:  # a name in an annotation that is imported for type checkers only
        signature = inspect.signature(function)
    parameters = signature.parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in fixed}


def check_settings(method: str, settings: Mapping[str, object]) -> None:
    """Raise ValueError unless a method takes these settings, and their values are of the types in its signature.

    A setting without a type has that of its default. Whether the values are in range is checked by ``build``.
    """
    parameters = _parameters(method)
    for name, value in settings.items():
        if name not in parameters:
            choice = f"choose from {', '.join(parameters)}" if parameters else "it takes none"
            raise ValueError(f"{method} has no setting {name!r}; {choice}")
        kind, default = parameters[name].annotation, parameters[name].default
        if isinstance(kind, str) or kind is inspect.Parameter.empty:
            kind = type(default) if default not in (None, inspect.Parameter.empty) else object
        check_type(f"the setting {name} of {method}", value, kind)


def online(method: str, settings: Mapping[str, object]) -> bool:
    """Return whether a method with these settings carries its parameters from image to image."""
    return not settings.get("episodic", settings_of(method).get("episodic", True))


def build(problem: Problem, method: str, **settings) -> nn.Module:
    """Build a method, with `settings` over those of the problem. Raises ValueError: unknown, out of range.

    LoRA, and what DUSA does with `as_released`, stay in the problem's networks: load it again for another method.
    """
    function = builder(method)
    if problem.task not in TASKS.get(method, (problem.task,)):
        raise ValueError(f"{method} does not suit {problem.task}; choose from {', '.join(methods_for(problem.task))}")
    check_settings(method, settings)
    try:
        built = function(problem, **{**problem.settings.get(method, {}), **settings})
    except TypeError as error:
        raise ValueError(f"{method}: {error}") from error
    if not hasattr(built, "modules"):
        raise ValueError(f"{method} must return a torch.nn.Module, which is called with an image, not {built!r}")
    if online(method, settings) and not hasattr(built, "reset"):
        raise ValueError(
            f"{method} is online (episodic=False), so what it returns needs reset(), which starts it again"
        )
    return built
