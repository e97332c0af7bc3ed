"""The networks that ship for the scenes: honest cards, and good on clean test scenes."""

from __future__ import annotations

import json

import pytest
import torch

from dtta.problems import module, weights
from dtta.problems.scenes import data, depth, segmentation
from dtta.problems.scenes.world import CLASSES

SHIPPED = [("scenes-segmentation", "segformer"), ("scenes-depth", "densedepth")]


def test_nothing_ships_untested():
    folders = [f for f in weights.folder().glob("scenes-*") if f.is_dir()]
    assert {(f.name, p.stem) for f in folders for p in f.glob("*.safetensors")} == set(SHIPPED)


@pytest.mark.parametrize(("problem", "name"), SHIPPED)
def test_every_shipped_model_has_an_honest_card(problem, name):
    card = json.loads(weights.path_of(problem, name).with_suffix(".json").read_text())
    recipe = module(problem).RECIPES[name]
    assert card["command"] == f"dtta train {problem} --only {name}"
    assert (card["steps"], card["lr"], card["weight_decay"]) == (recipe.steps, recipe.lr, recipe.weight_decay)
    assert (card["data"], card["what"]) == (recipe.data, " ".join(recipe.build.__doc__.split()))
    model = weights.ready(problem, module(problem).NETWORKS, name)
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert recipe.scores(model) == pytest.approx(card["validation"], rel=0.02)


@torch.no_grad()
def test_the_bar_segmentation_of_clean_test_scenes():
    scenes = data.sample("test", 200)
    model = weights.ready("scenes-segmentation", segmentation.NETWORKS)
    answers = torch.cat([model(x) for x in scenes["image"].split(50)])
    sums = segmentation.class_counts(answers, scenes["segmentation"], CLASSES)
    assert segmentation.METRICS["mean IoU"](sums) >= 85


@torch.no_grad()
def test_the_bar_depth_of_clean_test_scenes():
    scenes = data.sample("test", 200)
    model = weights.ready("scenes-depth", depth.NETWORKS)
    answers = torch.cat([model(x) for x in scenes["image"].split(50)])
    found = [depth.errors(a[None], b)["δ < 1.25"] for a, b in zip(answers, scenes["depth"], strict=True)]
    assert sum(found) / len(found) >= 0.95
