"""The problems on scenes: the quality of their models, and sensitivity to the condition."""

from __future__ import annotations

import pytest
import torch

import dtta
from dtta.core.probe import losses_under
from dtta.problems.scenes import data, depth, segmentation
from dtta.problems.scenes.world import CLASSES
from dtta.problems.training import weights


@torch.no_grad()
def test_segmentation_of_clean_scenes():
    scenes = data.sample("test", 200)
    model = weights.ready("scenes-segmentation", segmentation.NETWORKS)
    answers = torch.cat([model(x) for x in scenes["image"].split(50)])
    sums = segmentation.class_counts(answers, scenes["segmentation"], CLASSES)
    assert segmentation.METRICS["mean IoU"](sums) >= 85


@torch.no_grad()
@pytest.mark.parametrize("network", depth.NETWORKS)
def test_depth_of_clean_scenes(network):
    scenes = data.sample("test", 200)
    model = weights.ready("scenes-depth", depth.NETWORKS, network)
    answers = torch.cat([model(x) for x in scenes["image"].split(50)])
    shares = [depth.errors(a[None], b)["δ < 1.25"] for a, b in zip(answers, scenes["depth"], strict=True)]
    assert sum(shares) / len(shares) >= 0.95


def test_the_segmentation_model_uses_its_condition():
    """The loss is lowest under the true map, and higher under another scene's than with wrong classes."""
    scenes, problem = data.sample("validation", 60), dtta.load("scenes-segmentation")
    truth = scenes["segmentation"]
    swapped = torch.where(truth >= 2, 2 + (truth - 1) % 5, truth)  # every object has the next class
    maps = [problem.condition(30 * segmentation.one_hot(m)) for m in (truth, swapped, truth.roll(1, 0))]
    right, other, wrong = losses_under(problem.diffusion, scenes["image"], maps).mean(0).tolist()
    assert 1.02 * right < other < wrong


def test_the_depth_model_uses_its_condition():
    """The loss is lowest under the true map, and higher under another scene's than at half or twice the distance."""
    scenes, problem = data.sample("validation", 60), dtta.load("scenes-depth")
    truth = scenes["depth"]
    near, far = problem.condition.near, problem.condition.far
    depths = (truth, (truth / 2).clamp(near, far), (2 * truth).clamp(near, far), truth.roll(1, 0))
    maps = [problem.condition(d) for d in depths]
    right, half, double, wrong = losses_under(problem.diffusion, scenes["image"], maps).mean(0).tolist()
    assert 1.02 * right < min(half, double) and max(half, double) < wrong
