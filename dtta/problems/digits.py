"""The digits problem: scikit-learn's 8 x 8 handwritten digits, two classifiers, two diffusion models.

Everything that made the shipped weights is here: the split, the architectures (small configurations
of the classes used at full scale), the augmentation, the losses and the schedules.
"""

from __future__ import annotations

from functools import cache, partial

import timm
import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DModel
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dtta.baselines import DiffusionClassifier, MaskedAutoencoder
from dtta.conditions import ClassMixture
from dtta.diffusion import ClassUNet, Diffusion, DiT
from dtta.problems import weights
from dtta.problems.problem import Problem
from dtta.problems.recipes import Recipe
from dtta.problems.shifts import SHIFTS, apply_shift

CLASSES = tuple(str(digit) for digit in range(10))
SIZE = 8
SPLITS = {"train": (0, 1000), "validation": (1000, 1297), "test": (1297, 1797)}

# Chosen on validation images by dtta/experiments/digits-test.toml, which a test holds in step.
_COMMON = dict(steps=5, samples=24, timesteps="stratified", optimizer="sgd")
SETTINGS: dict[str, dict] = {
    "diffusion-tta": dict(_COMMON, lr=0.02, low=0.25, high=0.75),
    "logits": dict(_COMMON, lr=30.0, low=0.25, high=0.75),
    "diffusion-classifier": dict(samples=24, low=0.25, high=0.75),
    "ensemble": dict(samples=24, low=0.25, high=0.75, temperature=0.3),
}


@cache
def split(name: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) in [0, 1] and labels (N,). One permutation, seed 0, cut in three."""
    if name not in SPLITS:
        raise ValueError(f"unknown split {name!r}; choose from {', '.join(SPLITS)}")
    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(data.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[slice(*SPLITS[name])]
    return images[order], labels[order]


def draw(name: str, index: int, shift: str, severity: int, seed: int) -> tuple[Tensor, Tensor]:
    """Image `index` of a split under a shift, and its label."""
    images, labels = split(name)
    return apply_shift(images[index], shift, severity, seed, index), labels[index]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Small random rotation (8°), scale (5%) and translation (half a pixel): milder than any shift."""
    n = len(images)
    angle, scale, dx, dy = (torch.rand(4, n, generator=generator) * 2 - 1).unbind()
    angle, scale = angle * 8 * torch.pi / 180, 1 + 0.05 * scale
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([cos, -sin, dx / SIZE, sin, cos, dy / SIZE], dim=1).view(n, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random training batch, augmented."""
    images, labels = split("train")
    pick = torch.randint(len(labels), (size,), generator=generator)
    return augment(images[pick], generator), labels[pick]


# --- task networks f ----------------------------------------------------------------------------------


class Classifier(nn.Module):
    """A timm network with its own preprocessing: images in [0, 1], resized and normalised, to logits.

    Args:
        lora_targets: names of the layers that LoRA goes beside, see ``dtta.parameters.add_lora``.
    """

    def __init__(self, network: nn.Module, size: int, lora_targets: str, mean: float = 0.5, std: float = 0.5):
        super().__init__()
        self.network, self.size, self.mean, self.std = network, size, mean, std
        self.lora_targets = lora_targets

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1] -> logits (N, L)."""
        if image.shape[-2:] != (self.size, self.size):
            image = F.interpolate(image, (self.size, self.size), mode="bilinear")
        return self.network((image - self.mean) / self.std)


def resnet() -> Classifier:
    """A ResNet with batch norm (0.34 M parameters), on the image enlarged to 32 x 32."""
    network = timm.create_model("resnet10t", in_chans=1, num_classes=10, channels=(16, 32, 64, 128))
    return Classifier(network, size=32, lora_targets=r"network\.layer\d\.\d\.conv\d")


def vit() -> Classifier:
    """A vision transformer with layer norm (0.20 M parameters), on 2 x 2 patches."""
    shape = dict(img_size=SIZE, patch_size=2, embed_dim=64, depth=4, num_heads=4)
    network = timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=10, **shape)
    return Classifier(network, size=SIZE, lora_targets=r"network\.blocks\.\d\.attn\.qkv")


def mae() -> MaskedAutoencoder:
    """A masked autoencoder with a classification head (0.18 M parameters), on 2 x 2 patches."""
    return MaskedAutoencoder(size=SIZE, patch=2, channels=1, classes=10, width=64, depth=4, heads=4)


def mae_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    """Cross-entropy on whole digits and the reconstruction of masked ones, one encoder for both."""
    images, labels = batch(64, generator)
    painted = model.reconstruction_loss(images, 0.75, generator).mean()
    return F.cross_entropy(model(images), labels, label_smoothing=0.05) + painted


def classifier_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    """Cross-entropy on clean digits."""
    images, labels = batch(64, generator)
    return F.cross_entropy(model(images), labels, label_smoothing=0.05)


# --- diffusion models φ -------------------------------------------------------------------------------


def scheduler() -> DDPMScheduler:
    """1000 steps, cosine: on so few pixels the linear schedule would waste half of them on pure noise."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


def unet() -> ClassUNet:
    """A class-conditional UNet (1.5 M parameters)."""
    network = UNet2DModel(
        sample_size=SIZE, in_channels=1, out_channels=1, num_class_embeds=10,
        block_out_channels=(48, 96), layers_per_block=1, norm_num_groups=16, attention_head_dim=32,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return ClassUNet(network, scheduler())


def dit() -> DiT:
    """A diffusion transformer (1.7 M parameters) on 2 x 2 patches, initialised as DiT's authors do."""
    network = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=32, num_layers=6, sample_size=SIZE, patch_size=2,
        in_channels=1, out_channels=1, num_embeds_ada_norm=10,
    )  # fmt: skip
    for block in network.transformer_blocks:  # each block starts as the identity
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
    nn.init.zeros_(network.proj_out_2.weight)
    nn.init.zeros_(network.proj_out_2.bias)
    return DiT(network, scheduler())


def soft_labels(labels: Tensor, classes: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Beliefs (N, L) for which the label is a fair draw: p ~ Dirichlet(α + onehot(y)).

    If beliefs were drawn from Dirichlet(α) and labels from the beliefs, this is the law of the belief
    given the label. So a model conditioned on p learns what p says: class j with probability p_j.
    """
    concentration = alpha + F.one_hot(labels, classes).float()
    gamma = torch._standard_gamma(concentration, generator=generator)
    return gamma / gamma.sum(dim=1, keepdim=True)


def diffusion_loss(
    diffusion: Diffusion, generator: torch.Generator, size: int = 128, soft: float = 0.5, alpha: float = 0.15
) -> Tensor:
    """The noise-prediction loss on clean digits, a share `soft` of the labels replaced by soft ones."""
    images, labels = batch(size, generator)
    belief = F.one_hot(labels, 10).float()
    n = int(size * soft)
    belief[:n] = soft_labels(labels[:n], 10, alpha, generator)
    t = ((torch.arange(size) + torch.rand(size, generator=generator)) / size * diffusion.timesteps).long()
    t = t[torch.randperm(size, generator=generator)]
    noise = torch.randn(images.shape, generator=generator)
    condition = belief @ diffusion.class_embeddings
    return diffusion.loss(diffusion.encode(images), t, noise, condition).mean()


# --- the problem --------------------------------------------------------------------------------------

NETWORKS = {"resnet": resnet, "vit": vit, "mae": mae}  # the first of each is the usual one
DIFFUSIONS = {"unet": unet, "dit": dit, "unet-hard": unet, "dit-hard": dit}


def problem(network: str | None = None, diffusion: str | None = None) -> Problem:
    """The digits problem, with one of its task networks and one of its diffusion models.

    Args:
        network: "resnet" (batch norm), "vit" (layer norm), or "mae" (a masked autoencoder, for TTT-MAE).
        diffusion: "unet" or "dit", trained on soft and hard labels; "unet-hard" or "dit-hard", on hard ones.
    """
    f = weights.ready("digits", NETWORKS, network)
    phi = weights.ready("digits", DIFFUSIONS, diffusion)
    return Problem(
        name="digits",
        task="classification",
        classes=CLASSES,
        model=f,
        diffusion=phi,
        condition=ClassMixture(lambda: phi.class_embeddings),
        draw=draw,
        sizes={name: stop - start for name, (start, stop) in SPLITS.items()},
        shape=(1, SIZE, SIZE),
        shifts=tuple(SHIFTS),
        metric="accuracy",
        score=lambda output, label: float(output.argmax(dim=1).item() == label.item()),
        settings=SETTINGS,
        mirrored=False,
    )


# --- training -----------------------------------------------------------------------------------------

DATA = "scikit-learn digits, the training split of 1000 images (seed 0), mildly augmented"
LICENCE = "Apache-2.0; the data is scikit-learn's, from the UCI repository (CC BY 4.0)"


@torch.no_grad()
def scores(model: nn.Module) -> dict[str, float]:
    """What a card reports, on the clean validation split."""
    images, labels = split("validation")
    if not isinstance(model, Diffusion):
        found = {"accuracy": round((model(images).argmax(1) == labels).float().mean().item(), 4)}
        if isinstance(model, MaskedAutoencoder):
            repeated = images.repeat_interleave(8, 0)
            error = model.reconstruction_loss(repeated, 0.75, torch.Generator().manual_seed(0)).mean()
            found["reconstruction error"] = round(error.item(), 4)
        return found
    losses = DiffusionClassifier(model, samples=64).losses(images).mean(2)  # (N, L)
    right = losses.gather(1, labels[:, None]).mean()
    accuracy = (losses.argmin(1) == labels).float().mean()
    return {
        "loss under the true class": round(right.item(), 5),
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
