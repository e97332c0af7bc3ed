"""How the shipped models are made: a recipe for each, and one function that follows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dtta.problems.training import weights
from dtta.problems.training.fit import Loss, fit


@dataclass(frozen=True)
class Recipe:
    """What makes one model.

    Args:
        build: a network with random weights; its docstring goes on the card.
        loss: (network, generator) -> the loss of a random batch.
        scores: network -> what its card reports, on clean validation images.
        data, licence: for the card.
        steps, lr, weight_decay: see ``dtta.problems.training.fit``.
    """

    build: Callable[[], nn.Module]
    loss: Loss
    scores: Callable[[nn.Module], dict[str, float]]
    data: str
    licence: str
    steps: int
    lr: float
    weight_decay: float = 0.01


def train(
    problem: str,
    recipes: Mapping[str, Recipe],
    to: Path,
    only: list[str] | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> None:
    """Make a problem's weights and cards in the folder `to`; what is there already is not made again.

    Args:
        only: names of the models to make; None: all, in the order of the recipes: a model may be trained on top of
            another, which is then read from the same folder.
        steps: fewer steps than the recipes say, to try things out.

    Raises:
        ValueError: unknown model, or a problem that trains none. FloatingPointError: training diverged.
    """
    if not recipes:
        raise ValueError(f"there is nothing to train for {problem}: its checkpoints are public")
    for name in only or recipes:
        if name not in recipes:
            raise ValueError(f"unknown model {name!r}; choose from {', '.join(recipes)}")
        path = weights.path_of(problem, name, to)
        if path.with_suffix(".json").exists():
            print(f"{path} is there already; delete it to make it again")
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
