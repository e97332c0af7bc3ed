"""Problems by name. A problem of your own needs no entry here: give the path of your pictures with a network and a
diffusion model (``dtta.problems.own``); or "package.module:function", or install a package with an entry point in the
group dtta.problems.

The function returns a ``Problem`` and may take any of ``network``, ``diffusion``, ``classes``, ``as_released``,
``keep_size``, ``batch`` and ``name``. Its module may also have ``RECIPES``, how its shipped models are trained, or
``recipes(name)``, if that depends on the user's data; and ``requirements(name, network, diffusion)``, what
``dtta doctor`` checks.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from dtta.core import plugins

if TYPE_CHECKING:
    from dtta.core.problem import Problem
    from dtta.problems.training.recipes import Recipe

GROUP = "dtta.problems"  # of entry points
_IMAGENET = ["imagenet", *(f"imagenet-{name}" for name in ("a", "r", "c", "v2", "s", "sketch")), "objectnet"]
_DATA_SETS = ("food101", "cifar100", "aircraft", "pets", "flowers102", "imagenet")
PROBLEMS = {
    "digits": "dtta.problems.digits:problem",
    "scenes-segmentation": "dtta.problems.scenes.segmentation:problem",
    "scenes-depth": "dtta.problems.scenes.depth:problem",
    "scenes-clip": "dtta.problems.scenes.clip:problem",
    **{f"open-vocabulary-{name}": "dtta.problems.full.open_vocabulary:problem" for name in _DATA_SETS},
    **dict.fromkeys(_IMAGENET, "dtta.problems.full.imagenet:problem"),
    **dict.fromkeys(("ade20k", "own-segmentation"), "dtta.problems.full.ade20k:problem"),
    **dict.fromkeys(("nyuv2", "own-depth"), "dtta.problems.full.nyuv2:problem"),
}
OWN = "dtta.problems.own:problem"


def load(
    name: str,
    network: str | None = None,
    diffusion: str | None = None,
    classes: int | Sequence[str] | None = None,
    as_released: bool = False,
    keep_size: bool = False,
    batch: int = 1,
    options: Mapping[str, object] | None = None,
) -> Problem:
    """Load a problem by name; the path of a folder or CSV file stands for your own pictures (``dtta.problem``).

    Problems with shipped models set torch to one thread on a CPU unless OMP_NUM_THREADS is set (see `weights.ready`).

    >>> load("digits").classes[3]
    '3'

    Args:
        network, diffusion: another task network or diffusion model than the problem's default.
        classes: for an open vocabulary: how many of its class names, or names of your own; None: the default.
        as_released: compute as the authors' released code where it differs from the paper; see the problem's function.
        keep_size: use images that already have the network's size as they are (ImageNet-C; see ``imagenet.problem``).
        batch: images that a method will receive at once; the settings are those chosen for it (``problems.chosen``).
        options: further arguments of the problem's function, such as ``near`` and ``far`` of your own depth maps.

    Raises ValueError: unknown problem, network or diffusion model, or an argument that the problem does not take;
    ``WeightsError`` (``dtta.problems.training.weights``): its weights are missing or damaged.
    """
    name = str(name)
    make = plugins.find("problem", _entry(name), PROBLEMS, GROUP)
    try:
        accepted = inspect.signature(make).parameters
    except ValueError as error:  # one of Python's own functions
        raise ValueError(f"{name} is no function that makes a problem") from error
    if classes is not None and "classes" not in accepted:
        raise ValueError(f"the classes of {name} are fixed")
    given = {"network": network, "diffusion": diffusion, "classes": classes}
    options = dict(options or {}) | {key: value for key, value in given.items() if value is not None}
    options |= {key: True for key, value in {"as_released": as_released, "keep_size": keep_size}.items() if value}
    for key in options:
        if key not in accepted:
            raise ValueError(f"{name} has no choice of {key}; leave it out")
    options |= {key: value for key, value in {"batch": batch, "name": name}.items() if key in accepted}
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise ValueError(f"{name} is no function that makes a problem ({error})") from error
    made = make(**options)
    if not hasattr(made, "diffusion"):
        raise ValueError(f"{name} must return a dtta.core.problem.Problem, not {type(made).__name__}")
    return made


def module(name: str) -> ModuleType:
    """Return the module that a problem's name stands for, even if it re-exports the function. Raises ValueError."""
    name = _entry(name)
    plugins.find("problem", name, PROBLEMS, GROUP)  # says what is missing
    return importlib.import_module(plugins.target_of("problem", name, PROBLEMS, GROUP).partition(":")[0])


def is_own(name: str) -> bool:
    """Return whether a problem's name is "own", or the path of pictures, which a name of the table never is."""
    if name in PROBLEMS or not name:
        return False
    return name == "own" or "/" in name or Path(name).is_absolute() or Path(name).exists()


def _entry(name: str) -> str:
    return OWN if is_own(name) else name


def recipes_of(name: str) -> Mapping[str, Recipe]:
    """Return how a problem's models are trained, by model name; empty if it trains none.

    Raises ValueError: unknown problem; FileNotFoundError: the training data are missing.
    """
    source = module(name)
    return source.recipes(name) if hasattr(source, "recipes") else getattr(source, "RECIPES", {})
