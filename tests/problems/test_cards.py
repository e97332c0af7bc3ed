"""The cards of the shipped models: how they were made, and their scores; those of digits are in test_digits.py."""

from __future__ import annotations

import json

import pytest

from dtta.problems import module
from dtta.problems.training import weights

PROBLEMS = ("digits", "scenes-segmentation", "scenes-depth", "scenes-clip")
SHIPPED = [(problem, name) for problem in PROBLEMS for name in module(problem).RECIPES]


def read(problem: str, name: str):
    """Return the card of a model, its recipe and the model."""
    card = json.loads(weights.path_of(problem, name).with_suffix(".json").read_text(encoding="utf-8"))
    models = {**module(problem).NETWORKS, **module(problem).DIFFUSIONS}
    return card, module(problem).RECIPES[name], weights.ready(problem, models, name)


def test_every_shipped_model_is_tested():
    assert {(p.parent.name, p.stem) for p in weights.folder().glob("*/*.safetensors")} == set(SHIPPED)


@pytest.mark.parametrize(("problem", "name"), SHIPPED)
def test_the_card_states_the_recipe(problem, name):
    card, recipe, model = read(problem, name)
    assert card["command"] == f"dtta train {problem} --only {name}"
    assert (card["steps"], card["lr"], card.get("weight_decay", 0.01)) == (recipe.steps, recipe.lr, recipe.weight_decay)
    assert (card["data"], card["licence"]) == (recipe.data, recipe.licence)
    assert card["what"] == " ".join(recipe.build.__doc__.split())
    assert card["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.reproduction
@pytest.mark.parametrize(("problem", "name"), [pair for pair in SHIPPED if pair[0] != "digits"])
def test_the_scores_of_every_shipped_model_are_true(problem, name):
    card, recipe, model = read(problem, name)
    scores = recipe.scores(model)
    assert scores.keys() == card["validation"].keys()
    for key, value in scores.items():  # one or two predictions of CLIP may differ on another processor
        few = problem == "scenes-clip" and "accuracy" in key
        assert value == pytest.approx(card["validation"][key], **(dict(abs=0.04) if few else dict(rel=0.02)))
