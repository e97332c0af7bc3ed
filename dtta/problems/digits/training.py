"""Training of the digits' models: losses, scores for the model cards, recipes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtta.core.diffusion import Diffusion
from dtta.core.probe import losses_under
from dtta.problems.digits.data import batch, split
from dtta.problems.digits.models import dit, mae, resnet, unet, vit
from dtta.problems.networks.mae import MaskedAutoencoder
from dtta.problems.training.fit import denoising_loss
from dtta.problems.training.recipes import Recipe

DATA = "scikit-learn digits, the training split of 1000 images (seed 0), weakly augmented"
LICENCE = "Apache-2.0; the data is scikit-learn's, from the UCI repository (CC BY 4.0)"


def mae_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    """Return the cross-entropy on whole digits plus the reconstruction loss of masked ones, with one encoder."""
    images, labels = batch(64, generator)
    reconstruction = model.reconstruction_loss(images, 0.75, generator).mean()
    return F.cross_entropy(model(images), labels, label_smoothing=0.05) + reconstruction


def classifier_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    """Return the cross-entropy on clean digits."""
    images, labels = batch(64, generator)
    return F.cross_entropy(model(images), labels, label_smoothing=0.05)


def soft_labels(labels: Tensor, classes: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Return calibrated beliefs (N, L) given the labels: p ~ Dirichlet(α + onehot(y)).

    If p ~ Dirichlet(α) and y ~ p, this is the posterior of p given y. So among the images with belief p, class j has
    probability p_j, and a model conditioned on p learns this.
    """
    concentration = alpha + F.one_hot(labels, classes).float()
    gamma = torch._standard_gamma(concentration, generator=generator)
    return gamma / gamma.sum(dim=1, keepdim=True)


def diffusion_loss(
    diffusion: Diffusion, generator: torch.Generator, size: int = 128, soft: float = 0.5, alpha: float = 0.15
) -> Tensor:
    """Return the noise-prediction loss on clean digits; a share `soft` of the labels is replaced by soft labels."""
    images, labels = batch(size, generator)
    belief = F.one_hot(labels, 10).float()
    n = int(size * soft)
    belief[:n] = soft_labels(labels[:n], 10, alpha, generator)
    return denoising_loss(diffusion, diffusion.encode(images), belief @ diffusion.class_embeddings, generator)


@torch.no_grad()
def scores(model: nn.Module) -> dict[str, float]:
    """Return the validation scores of a model card, on the clean validation split."""
    images, labels = split("validation")
    if not isinstance(model, Diffusion):
        accuracies = {"accuracy": round((model(images).argmax(1) == labels).float().mean().item(), 4)}
        if isinstance(model, MaskedAutoencoder):
            repeated = images.repeat_interleave(8, 0)
            error = model.reconstruction_loss(repeated, 0.75, torch.Generator().manual_seed(0)).mean()
            accuracies["reconstruction error"] = round(error.item(), 4)
        return accuracies
    conditions = [row.expand(len(images), -1) for row in model.class_embeddings]
    losses = losses_under(model, images, conditions, samples=64, batch=len(images))  # (N, L)
    true_class = losses.gather(1, labels[:, None]).mean()
    accuracy = (losses.argmin(1) == labels).float().mean()
    return {
        "loss under the true class": round(true_class.item(), 5),
        "Diffusion Classifier accuracy": round(accuracy.item(), 4),
    }


_recipe = partial(Recipe, scores=scores, data=DATA, licence=LICENCE)
_classifier = partial(_recipe, loss=classifier_loss, lr=2e-3, weight_decay=0.05)
_diffusion = partial(_recipe, loss=diffusion_loss, steps=3500, lr=1e-3)
_hard = partial(_diffusion, loss=partial(diffusion_loss, soft=0.0))
RECIPES: dict[str, Recipe] = {
    "resnet": _classifier(resnet, steps=1200),
    "vit": _classifier(vit, steps=1500),
    "mae": _recipe(mae, loss=mae_loss, steps=4000, lr=1e-3, weight_decay=0.05),
    "unet": _diffusion(unet),
    "dit": _diffusion(dit),
    "unet-hard": _hard(unet),
    "dit-hard": _hard(dit),
}
