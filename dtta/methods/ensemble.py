"""Naive ensemble: the mean of the beliefs of the network and of a Diffusion Classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtta.core.problem import Problem
from dtta.methods import diffusion_classifier
from dtta.methods.none import NoAdaptation


class Ensemble(nn.Module):
    """(p_θ(c | x) + p_φ(c | x)) / 2 of two methods, image -> logits (N, L), without adapting either."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    @torch.no_grad()
    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> log of the mean belief (N, L)."""
        return self.mean(*(method(image, generator) for method in (self.first, self.second)))

    @staticmethod
    def mean(first: Tensor, second: Tensor) -> Tensor:
        """Return the log of the mean belief (N, L) of two methods' logits."""
        return ((first.softmax(dim=1) + second.softmax(dim=1)) / 2).log()


def build(
    problem: Problem,
    *,
    samples: int = 48,
    t_min: float = 0.0,
    t_max: float = 1.0,
    temperature: float = 1.0,
    top: int | None = None,
) -> Ensemble:
    """Build the mean of the network's belief and a Diffusion Classifier's; the settings are the latter's."""
    options = dict(samples=samples, t_min=t_min, t_max=t_max, temperature=temperature, top=top)
    second = diffusion_classifier.build(problem, **options)
    return Ensemble(NoAdaptation(problem.model), second)
