"""Recipes: how each shipped model is trained, and the function that trains them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dtta.core.diffusion import Diffusion
from dtta.core.probe import losses_under
from dtta.problems.training import weights
from dtta.problems.training.fit import Loss, fit


@dataclass(frozen=True)
class Recipe:
    """How one model is trained; `steps`, `lr` and `weight_decay` as in ``dtta.problems.training.fit``.

    Args:
        build: returns a network with random weights; its docstring becomes the description on the model card.
        scores: network -> the validation scores on the model card, on clean images.
    """

    build: Callable[[], nn.Module]
    loss: Loss
    scores: Callable[[nn.Module], dict[str, float]]
    data: str
    licence: str
    steps: int
    lr: float
    weight_decay: float = 0.01


@torch.no_grad()
def map_losses(diffusion: Diffusion, image: Tensor, conditions: Mapping[str, Tensor], **options) -> dict[str, float]:
    """Return the mean loss of images under each condition, for a model card. Options: see ``losses_under``."""
    losses = losses_under(diffusion, image, list(conditions.values()), **options).mean(0).tolist()
    return {f"loss under {name}": round(loss, 5) for name, loss in zip(conditions, losses, strict=True)}


def train(
    problem: str,
    recipes: Mapping[str, Recipe],
    to: Path,
    only: list[str] | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> None:
    """Train a problem's models and write their weights and model cards to a folder; skip those that exist.

    Args:
        only: names of the models; None: all, in the order of the recipes. A model that depends on another (a
            text-to-image model on its text encoder) reads it from the same folder.
        steps: instead of the number in the recipes, for a quick trial.

    Raises ValueError: unknown model, or the problem has no recipes; FloatingPointError: training diverged.
    """
    if not recipes:
        raise ValueError(f"there is nothing to train for {problem}: its checkpoints are public")
    for name in set(only or ()) - recipes.keys():
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(recipes)}")
    for name in only or recipes:
        path = weights.path_of(problem, name, to)
        if path.with_suffix(".json").exists():
            print(f"{path} already exists; delete it to train the model again")
            continue
        recipe = recipes[name]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = recipe.build()
        schedule = {"steps": steps or recipe.steps, "lr": recipe.lr, "weight_decay": recipe.weight_decay}
        checkpoint = path.with_suffix(".checkpoint")
        start = time.time()
        with weights.reading_from(to):
            model = fit(model, recipe.loss, **schedule, checkpoint=checkpoint, seed=seed, description=name)
            validation = recipe.scores(model)
        card = {
            "model": f"{problem}/{name}",
            "what": " ".join(recipe.build.__doc__.split()),
            "data": recipe.data,
            "licence": recipe.licence,
            "command": f"dtta train {problem} --only {name}",
            "seed": seed,
            **schedule,
            "seconds": round(time.time() - start),
            "torch": torch.__version__,
            "validation": validation,
        }
        weights.save(model, card, path)
        checkpoint.unlink()
        print(f"{path}: {card['validation']}")
