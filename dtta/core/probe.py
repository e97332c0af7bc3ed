"""Is a diffusion model sensitive to its condition? Its loss on the same images under different conditions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dtta.core.adapter import check_counts, check_image
from dtta.core.diffusion import Diffusion
from dtta.core.sampling import Sampling


@torch.no_grad()
def losses_under(
    diffusion: Diffusion,
    image: Tensor,
    conditions: Sequence[Tensor],
    samples: int = 4,
    sampling: Sampling | None = None,
    seed: int = 0,
    batch: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the loss (Eq. 2) of each image under each condition, (N, K), with the same (t, ε) for all conditions.

    Args:
        diffusion: put in eval mode. image: (N, C, H, W) in [0, 1].
        conditions: K conditions (N, ...).
        samples: pairs (t, ε) for each image. batch: images in a pass.
        sampling: how they are drawn; None: stratified over all timesteps.
        seed, generator: of the pairs; a `generator` is used instead of a new one with the seed.

    Raises ValueError: see `check_image`; or a condition has another number of images.
    """
    check_image(image, diffusion)
    check_counts(samples=samples, batch=batch)
    wrong = [len(c) for c in conditions if len(c) != len(image)]
    if wrong:
        raise ValueError(f"each condition must be for all {len(image)} images, not for {wrong[0]}")
    z0 = diffusion.eval().encode(image)
    sampling = sampling or Sampling("stratified")
    t, noise = sampling.draw(z0, samples, diffusion.timesteps, generator or torch.Generator().manual_seed(seed))
    weight = sampling.weight(t, diffusion.timesteps)
    losses = torch.zeros(len(z0), len(conditions))
    for part in torch.arange(len(z0)).split(batch):
        for k, c in enumerate(conditions):
            for b in range(samples):
                loss = diffusion.loss(z0[part], t[part, b], noise[part, b], c[part])
                losses[part, k] += (weight[part, b] * loss).cpu() / samples
    return losses


def losses_by_timestep(
    diffusion: Diffusion, image: Tensor, conditions: Sequence[Tensor], samples: int = 4, parts: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the middle timesteps (parts,) of equal parts of the range of t, and the losses in them (N, K, parts)."""
    edges = torch.linspace(0, 1, parts + 1)
    ranges = [Sampling("stratified", t_min=a, t_max=b) for a, b in pairwise(edges.tolist())]
    losses = [losses_under(diffusion, image, conditions, samples, sampling, seed) for sampling in ranges]
    return (edges[:-1] + edges[1:]) / 2 * diffusion.timesteps, torch.stack(losses, dim=2)
