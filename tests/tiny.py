"""Tiny random models, small enough that a test takes milliseconds; the same bytes for the same seed."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DModel
from torch import Tensor, nn

from dtta.conditions import ClassMixture
from dtta.diffusion import ClassUNet, Diffusion, DiT
from dtta.problems.problem import Problem
from dtta.problems.shifts import SHIFTS

CLASSES, SIZE = 5, 8


def unet_network(seed: int = 0, **options) -> UNet2DModel:
    settings = dict(
        sample_size=SIZE, in_channels=1, out_channels=1, num_class_embeds=CLASSES,
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DModel(**settings | options)


def dit_network(seed: int = 0, **options) -> DiTTransformer2DModel:
    """With equal embedders in all blocks, as in the library's conversion of the public checkpoints."""
    settings = dict(
        num_attention_heads=2, attention_head_dim=8, num_layers=3, sample_size=SIZE, patch_size=2,
        in_channels=1, out_channels=1, num_embeds_ada_norm=CLASSES,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DiTTransformer2DModel(**settings | options)
    first = network.transformer_blocks[0].norm1.emb.state_dict()
    for block in network.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return network


def scheduler(**options) -> DDPMScheduler:
    return DDPMScheduler(**dict(num_train_timesteps=1000, beta_schedule="linear") | options)


def diffusion(family: str = "unet", seed: int = 0) -> Diffusion:
    """A class-conditional diffusion model of either family, "unet" or "dit"."""
    if family == "unet":
        return ClassUNet(unet_network(seed), scheduler())
    return DiT(dit_network(seed), scheduler())


class Classifier(nn.Module):
    """A convolution, batch norm with statistics of its own, dropout and a linear head."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(6 * 16, classes)

    def forward(self, image: Tensor) -> Tensor:
        h = nn.functional.avg_pool2d(self.norm(self.conv(image)).relu(), 2)
        return self.head(self.dropout(h.flatten(1)))


def classifier(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Classifier()
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        return model.eval()


def mixture(model: Diffusion) -> ClassMixture:
    return ClassMixture(lambda: model.class_embeddings)


def images(n: int = 1, seed: int = 0, channels: int = 1, size: int = SIZE) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(family: str = "unet", settings: dict | None = None) -> Problem:
    """A whole problem of 12 random images: a classifier, a diffusion model, a condition and a metric."""
    phi = diffusion(family)
    labels = torch.arange(12) % CLASSES
    return Problem(
        name="tiny",
        classes=tuple("abcde"),
        model=classifier(),
        diffusion=phi,
        condition=mixture(phi),
        split=lambda name: (images(12, seed={"validation": 1, "test": 2}[name]), labels),
        shifts=tuple(SHIFTS),
        metric="accuracy",
        score=lambda output, label: float(output.argmax(dim=1).item() == label.item()),
        settings=settings or {},
    )
