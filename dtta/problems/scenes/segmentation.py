"""Segmentation of the scenes: a SegFormer, and a diffusion model conditioned on maps of class probabilities."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from dtta.core.conditions import PixelMixture
from dtta.core.diffusion import ConcatUNet
from dtta.core.problem import Problem
from dtta.problems.chosen import chosen
from dtta.problems.metrics import class_counts, segmentation_metrics
from dtta.problems.scenes import data, models
from dtta.problems.scenes.data import SIZE
from dtta.problems.scenes.shifts import SHIFTS
from dtta.problems.scenes.training import DATA, LICENCE, distort, smooth_noise
from dtta.problems.scenes.world import CLASSES
from dtta.problems.training import weights
from dtta.problems.training.fit import denoising_loss
from dtta.problems.training.recipes import Recipe, map_losses

L = len(CLASSES)


def network_loss(model: nn.Module, generator: torch.Generator, size: int = 32) -> Tensor:
    """Return the cross-entropy per pixel, on clean scenes."""
    image, classes, _ = data.batch(size, generator)
    return F.cross_entropy(model(image), classes)


def soften(classes: Tensor, generator: torch.Generator, alpha: float = 0.15) -> Tensor:
    """Turn true maps (N, H, W) into beliefs (N, L, H, W) of varying certainty; the true class stays the most probable.

    Half of the maps stay one-hot. In the others the edges are blurred; in half of these, each class of the image is
    replaced by a belief drawn from Dirichlet(α + onehot), so that a region may be confused with another class. A smooth
    random field mixes the result with the one-hot map, so that the certainty varies within an image.
    """
    N = len(classes)
    exact = one_hot(classes)
    certain = torch.eye(L).expand(N, L, L)  # (N, true class, belief)
    belief = torch._standard_gamma(alpha + certain, generator=generator)
    belief = belief / belief.sum(dim=2, keepdim=True)
    confused = torch.rand(N, 1, 1, generator=generator) < 0.5
    vague = torch.einsum("nkhw,nkl->nlhw", exact, torch.where(confused, belief, certain))
    width = 0.3 + 1.7 * torch.rand((), generator=generator).item()
    vague = gaussian_blur(vague, [9, 9], [width, width])
    weight = smooth_noise(N, classes.shape[-1], generator) * torch.rand(N, 1, 1, 1, generator=generator).sqrt()
    weight[torch.rand(N, generator=generator) < 0.5] = 0
    return exact * (1 - weight) + vague * weight


def diffusion_loss(diffusion: ConcatUNet, generator: torch.Generator, size: int = 64) -> Tensor:
    """Return the noise-prediction loss under softened maps, on scenes of which half are distorted."""
    image, classes, _ = data.batch(size, generator)
    belief = soften(classes, generator)
    condition = torch.einsum("nlhw,ld->ndhw", belief, diffusion.class_embeddings)
    return denoising_loss(diffusion, diffusion.encode(distort(image, generator)), condition, generator)


NETWORKS = {"segformer": models.segformer}
DIFFUSIONS = {"unet": models.unet_segmentation}
METRICS = segmentation_metrics(CLASSES)


def problem(network: str | None = None, diffusion: str | None = None) -> Problem:
    """Build the problem of segmenting scenes into `CLASSES`; models of `NETWORKS` and `DIFFUSIONS` (None: first)."""
    f = weights.ready("scenes-segmentation", NETWORKS, network)
    phi = weights.ready("scenes-segmentation", DIFFUSIONS, diffusion)
    return Problem(
        name="scenes-segmentation",
        task="segmentation",
        classes=CLASSES,
        model=f,
        diffusion=phi,
        condition=PixelMixture(lambda: phi.class_embeddings),
        draw=partial(data.shifted, "segmentation"),
        sizes=data.SIZES,
        shape=(3, SIZE, SIZE),
        shifts=SHIFTS,
        metric="mean IoU",
        score=score,
        sums=partial(class_counts, classes=CLASSES),
        metrics=METRICS,
        settings=chosen("scenes-segmentation", network, diffusion),
    )


def score(logits: Tensor, target: Tensor) -> float:
    """Return the mean IoU of one image, over the classes that it contains."""
    return METRICS["mean IoU"](class_counts(logits, target, CLASSES)).item() / 100


@torch.no_grad()
def scores(model: nn.Module) -> dict[str, float]:
    """Return the validation scores of a model card, on 300 clean scenes."""
    scenes = data.sample("validation", 300)
    x, classes = scenes["image"], scenes["segmentation"]
    if not isinstance(model, ConcatUNet):
        sums = class_counts(torch.cat([model(part) for part in x.split(50)]), classes, CLASSES)
        return {name: round(METRICS[name](sums).item(), 2) for name in METRICS}
    condition = PixelMixture(model.class_embeddings)
    maps = {
        "the true map": 30 * one_hot(classes),
        "the other scene's map": 30 * one_hot(classes.roll(1, 0)),
        "the no map": one_hot(classes) * 0,
    }
    return map_losses(model, x, {name: condition(y) for name, y in maps.items()})


def one_hot(classes: Tensor) -> Tensor:
    """Return one-hot maps (N, L, H, W) of class maps (N, H, W)."""
    return F.one_hot(classes, L).movedim(-1, 1).float()


_recipe = partial(Recipe, scores=scores, data=DATA, licence=LICENCE, lr=1e-3)
RECIPES = {
    "segformer": _recipe(models.segformer, network_loss, steps=4000, weight_decay=0.05),
    "unet": _recipe(models.unet_segmentation, diffusion_loss, steps=5000),
}
