"""What the tests of the life cycle and of Algorithm 1 share."""

from __future__ import annotations

import tiny
import torch

from dtta.core.parameters import select
from dtta.core.sampling import Sampling
from dtta.core.tta import DiffusionTTA


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wrap(model, phi, parameters=None, lr=0.1, kind=torch.optim.SGD, momentum=None, **options) -> DiffusionTTA:
    settings = {} if momentum is None else {"momentum": momentum}
    optimizer = kind(select(model) if parameters is None else parameters, lr=lr, **settings)
    options = dict(steps=2, samples=6) | options
    return DiffusionTTA(model, phi, tiny.mixture(phi), optimizer, **options)


def tta(family="unet", joint=False, **options) -> DiffusionTTA:
    """Algorithm 1 on a tiny problem, on θ or on θ and φ."""
    problem = tiny.problem(family)
    adapted = [*select(problem.model), *(select(problem.diffusion.network) if joint else [])]
    optimizer = torch.optim.SGD(adapted, lr=0.1)
    options = dict(steps=2, samples=6) | options
    return DiffusionTTA(problem.model, problem.diffusion, problem.condition, optimizer, **options)


def pairs(diffusion, samples=6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two images as z0, and timesteps and noise for them."""
    z0 = diffusion.encode(tiny.images(2))
    return z0, *Sampling().draw(z0, samples, diffusion.timesteps, seeded(0))


class Recorder(torch.optim.SGD):
    """An optimizer that notes the gradients it is given."""

    def step(self):
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        super().step()
