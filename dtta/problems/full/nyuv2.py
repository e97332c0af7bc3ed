"""Depth at full scale: GLPN or DenseDepth on NYU Depth v2, or on images and depth maps of your own (paper, Table 4).

The diffusion model is Stable Diffusion 1.5 with the depth ControlNet, which was trained on relative inverse depth: it
is sensitive to the shape of a depth map, not to its scale, so errors are also reported after rescaling. The paper's
latent diffusion model, given the depth map, was never released; ``dtta train nyuv2`` trains one
(``dtta.problems.full.latent_maps``), and a DenseDepth, which is published only for Keras.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from transformers import GLPNForDepthEstimation

from dtta.core.conditions import DepthMap, RelativeDepth
from dtta.core.problem import Problem
from dtta.problems.corruptions import IMAGE_SHIFTS, apply_shift
from dtta.problems.data import dense as dense_data
from dtta.problems.data import hub
from dtta.problems.data.images import center_square
from dtta.problems.full import latent_maps
from dtta.problems.metrics import SCALED_DEPTH_METRICS, scaled_depth_errors
from dtta.problems.networks.wrappers import IMAGENET_MEAN, IMAGENET_STD, DenseDepth, Glpn
from dtta.problems.training import weights
from dtta.problems.training.fit import depth_loss
from dtta.problems.training.recipes import Recipe

NETWORKS = hub.checkpoints("nyuv2-networks")
ENCODERS = hub.checkpoints("nyuv2-encoders")
DIFFUSIONS = hub.checkpoints("nyuv2-diffusions")
check_data = dense_data.check_data


class DenseNetStages(nn.Module):
    """timm's DenseNet as DenseDepth's encoder: five feature maps, each after one of the layers in `stages`."""

    stages = ("norm0", "pool0", "transition1", "transition2", "norm5")

    def __init__(self, densenet: nn.Module):
        super().__init__()
        self.features = densenet.features
        with torch.no_grad():
            self.widths = [y.shape[1] for y in self(torch.zeros(1, 3, 64, 64))]

    @property
    def feature_info(self) -> DenseNetStages:
        """The object with ``channels``, as in timm's encoders."""
        return self

    def channels(self) -> list[int]:
        """Return the channels of the five feature maps, from half the image's size to a 32nd."""
        return self.widths

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> five feature maps."""
        features = []
        for name, layer in self.features.named_children():
            x = layer(x)
            if name in self.stages:
                features.append(x)
        return features


def densedepth(name: str = "nyuv2", pretrained: bool = False) -> DenseDepth:
    """Return DenseDepth: DenseNet-169, `pretrained` on ImageNet or random, and a decoder of 1664 channels."""
    sizes = latent_maps.sizes(name)
    location = hub.locate(sizes.encoder, ENCODERS)
    if pretrained:
        encoder = hub.load_timm(location)
    else:  # only the architecture; nothing is downloaded
        encoder = timm.create_model(f"local-dir:{location.path}" if location.checkpoint is None else "densenet169")
    stages = DenseNetStages(encoder.eval())
    return DenseDepth(stages, stages.widths[-1], sizes.near, sizes.far, IMAGENET_MEAN, IMAGENET_STD, whole=False)


def problem(network: str | None = None, diffusion: str | None = None, *, name: str = "nyuv2") -> Problem:
    """Return depth in metres of NYU Depth v2's 654 test images ("nyuv2"), or of your own images ("own-depth").

    Images are centre squares of the diffusion model's size. Validation images are the first of the training part.

    Args:
        network: "glpn" (default), "densedepth" (trained by ``dtta train``), or the path of a folder with a
            ``GLPNForDepthEstimation``, or with only the weights of a DenseDepth (model.safetensors).
        diffusion: "controlnet-depth" (default), "latent" (trained by ``dtta train``; the default for your own data), or
            the path of a folder in the layout of a ``StableDiffusionControlNetPipeline``.

    Raises ValueError: unknown names; FileNotFoundError: the data are missing; ``WeightsError``: a checkpoint is missing
    or damaged, or cannot be downloaded.
    """
    pairs, sizes = dense_data.read(name), latent_maps.sizes(name)
    latent = latent_maps.is_chosen(name, diffusion)
    f = load_network(network, name)
    phi = latent_maps.load(name, diffusion, DIFFUSIONS)
    errors, target = partial(scaled_depth_errors, near=sizes.near, far=sizes.far), hub.device()
    return Problem(
        name=name,
        task="depth",
        classes=(),
        model=f.to(target),
        diffusion=phi.to(target),
        condition=DepthMap(sizes.near, sizes.far) if latent else RelativeDepth(sizes.near, sizes.far),
        draw=partial(_draw, pairs, phi.image_size, target),
        sizes={part: len(pairs[part]) for part in ("validation", "test")},
        shape=(3, phi.image_size, phi.image_size),
        shifts=tuple(IMAGE_SHIFTS),
        metric="SSIM",
        score=lambda output, depth: errors(output, depth)["SSIM"],
        sums=errors,
        metrics=SCALED_DEPTH_METRICS,
        settings={"diffusion-tta": latent_maps.SETTINGS | dict(adapt_diffusion=latent)},
        view=partial(center_square, size=phi.image_size),
    )


def requirements(name: str, network: str | None, diffusion: str | None) -> hub.Requirements:
    """Return the checkpoints that a problem needs, and a function that raises FileNotFoundError if data are missing."""
    phi = latent_maps.requirements(name, diffusion, DIFFUSIONS)
    if network == "densedepth":
        f = latent_maps.trained_file("network", name, "densedepth")
    else:
        f = hub.require("network", network, NETWORKS)
    return [f, *phi], partial(check_data, name)


def load_network(network: str | None = None, name: str = "nyuv2") -> nn.Module:
    """Return a depth network by name or from a folder. Raises as `problem`."""
    if network == "densedepth":
        trained = latent_maps.trained_file("network", name, "densedepth")
        return weights.load(densedepth(name), trained.file, trained.command)
    location = hub.locate(network, NETWORKS | {"densedepth": None})
    if location.checkpoint is None and not (Path(location.path) / "config.json").is_file():
        return hub.load_weights(densedepth(name), hub.locate_file(location, "model.safetensors"), location)
    sizes = latent_maps.sizes(name)
    model = hub.load_part(GLPNForDepthEstimation, location)
    return Glpn(model, near=sizes.near, far=sizes.far, mean=0.0, std=1.0, metres=True)  # its processor only rescales


def _draw(pairs, size, target, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    image, depth = pairs[split].load(index, size)
    image = apply_shift(image, shift, severity, seed, index, IMAGE_SHIFTS)
    return image.to(target), depth[None].to(target)


def recipes(name: str) -> dict[str, Recipe]:
    """Return how to train the latent diffusion model and the DenseDepth of a data set."""
    sizes = latent_maps.sizes(name)
    condition = DepthMap(sizes.near, sizes.far)

    def make() -> DenseDepth:
        """DenseDepth on DenseNet-169, which starts from ImageNet's weights."""
        return densedepth(name, pretrained=True).to(hub.device())

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        image, depth = latent_maps.batch(name, generator)
        return depth_loss(model(image.to(hub.device())), depth[:, None].to(hub.device()))

    @torch.no_grad()
    def scores(model: nn.Module) -> dict[str, float]:
        image, depth = latent_maps.validation(name)
        pairs = zip(image.split(1), depth.split(1), strict=True)
        errors = [scaled_depth_errors(model(x), d, sizes.near, sizes.far) for x, d in pairs]
        sums = {key: sum(e[key] for e in errors) for key in errors[0]} | {"images": len(errors)}
        return {key: round(metric(sums).item(), 3) for key, metric in SCALED_DEPTH_METRICS.items()}

    return {
        "latent": latent_maps.recipe(name, 0, lambda phi, maps: condition(maps)),
        "densedepth": Recipe(
            make, loss, scores, latent_maps.description(name), "that of the data", sizes.steps, lr=1e-4
        ),
    }
