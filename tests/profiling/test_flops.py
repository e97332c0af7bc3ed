"""Operations of a call, against what is counted by hand."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from dtta.methods.registry import build
from dtta.profiling.flops import operations


class Linear(nn.Module):
    """Answers by one matrix, and has been adapted by a gradient step before."""

    def __init__(self, steps: int):
        super().__init__()
        self.layer, self.steps = nn.Linear(12, 5), steps

    def forward(self, image, generator=None):
        for _ in range(self.steps):
            self.layer(image.flatten(1)).sum().backward()
        return self.layer(image.flatten(1))


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("images", [1, 3])
def test_a_matrix_is_two_operations_for_each_weight_and_image(steps, images):
    once = 2 * 12 * 5  # forward; backward asks for the weights' gradient alone, as much again
    assert operations(Linear(steps), torch.rand(images, 3, 2, 2)) == once * (1 + 2 * steps)


def test_cost_grows_with_steps_and_with_samples():
    problem = tiny.problem()
    x = torch.rand(1, *problem.shape)

    def cost(**settings):
        return operations(build(problem, "diffusion-tta", lr=0.01, **settings), x)

    answer = operations(build(problem, "none"), x)
    one = cost(steps=1, samples=2) - answer
    assert cost(steps=3, samples=2) - answer == pytest.approx(3 * one)
    assert cost(steps=1, samples=6) - answer > 2 * one
