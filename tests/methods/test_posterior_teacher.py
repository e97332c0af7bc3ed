"""The teacher of a weight update: its target, its gradient, and how many evaluations it takes."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch

from dtta.methods.registry import build


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_steps_follow_the_cross_entropy_to_the_first_posterior(problem, image):
    """Against SGD with momentum written out on a copy of the network."""
    target = build(problem, "diffusion-posterior", samples=3, beta=0.5)(image, seeded()).exp()
    network = copy.deepcopy(problem.model)
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    for _ in range(3):
        p = network(image).softmax(1)
        gradients = torch.autograd.grad(-(target * p.log()).sum(), network.parameters())
        with torch.no_grad():
            for parameter, v, gradient in zip(network.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(gradient)
                parameter -= 0.1 * v
    method = build(problem, "posterior-teacher", samples=3, beta=0.5, lr=0.1, steps=3)
    torch.testing.assert_close(method(image, seeded()), network(image).detach(), rtol=1e-4, atol=1e-5)


def test_the_step_pulls_the_output_towards_the_posterior(problem, image):
    posterior = build(problem, "diffusion-posterior", samples=4, beta=1.0)(image, seeded())
    method = build(problem, "posterior-teacher", samples=4, beta=1.0, lr=0.05, steps=10)
    distances = [
        torch.nn.functional.kl_div(answer.log_softmax(1), posterior, log_target=True, reduction="sum")
        for answer in (problem.model(image).detach(), method(image, seeded()))
    ]
    assert distances[1] < 0.5 * distances[0]


@pytest.mark.parametrize("steps", [1, 6])
def test_more_steps_cost_no_more_evaluations(problem, image, steps):
    passes = []
    problem.diffusion.network.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    method = build(problem, "posterior-teacher", top=2, samples=3, steps=steps)
    method(image, seeded())
    assert sum(passes) == method.evaluations == 6
    assert all(p.grad is None for p in problem.diffusion.network.parameters())


def test_its_answer_can_be_the_posterior(problem, image):
    """Of the network that the images before have taught."""
    method = build(problem, "posterior-teacher", samples=3, lr=0.1, steps=2, episodic=False, answer_before_step=True)
    expected = build(problem, "diffusion-posterior", samples=3)(image, seeded())
    torch.testing.assert_close(method(image, seeded()), expected)
    assert not torch.allclose(method(image, seeded()), expected, atol=1e-4)


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_it_is_for_classification(task):
    with pytest.raises(ValueError, match=f"posterior-teacher does not suit {task}; choose from none, diffusion-tta"):
        build(tiny.dense_problem(task), "posterior-teacher")
