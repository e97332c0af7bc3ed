"""Depth at full scale: GLPN or DenseDepth on NYU Depth v2, or on one's own pictures and depths (paper, Table 4).

The diffusion model is Stable Diffusion 1.5 under the depth ControlNet, which was shown relative inverse depth: what
it hears of a depth map is its shape, not its scale, so errors are told with the scale set right too. Or, as in the
paper, a latent diffusion model that sees the depth map beside the noisy latent; the paper's own was never released,
``dtta train nyuv2`` makes one (``dtta.problems.full.latent_maps``), and a DenseDepth, which is published for Keras alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm
import torch
from torch import Tensor, nn
from transformers import GLPNForDepthEstimation

from dtta.core.conditions import DepthMap, RelativeDepth
from dtta.core.problem import Problem
from dtta.problems.corruptions import IMAGE_SHIFTS, apply_shift
from dtta.problems.data import dense as dense_data
from dtta.problems.data.hub import Checkpoint, Need, device, fill, find, need, reach, reach_file, reach_timm
from dtta.problems.full import latent_maps
from dtta.problems.full.stable_diffusion import controlled_needs, load_controlled
from dtta.problems.metrics import SCALED_DEPTH_METRICS, scaled_depth_errors
from dtta.problems.networks.wrappers import IMAGENET_MEAN, IMAGENET_STD, DenseDepth, Glpn
from dtta.problems.training import weights
from dtta.problems.training.fit import depth_loss
from dtta.problems.training.recipes import Recipe

NETWORKS = {"glpn": Checkpoint("vinvino02/glpn-nyu", "cb8ce03174424af9a3315da175ead88667f0578c", 0.25)}
ENCODER = {"densenet169": Checkpoint("timm/densenet169.tv_in1k", None, 0.06)}
DIFFUSIONS = {
    "controlnet-depth": Checkpoint(
        "lllyasviel/control_v11f1p_sd15_depth", "539f99181d33db39cf1af2e517cd8056785f0a87", 1.45
    )
}
# The paper states nothing for depth; these are its numbers for segmentation and for the steps of the other tasks.
SETTINGS: dict[str, dict] = {
    "diffusion-tta": dict(optimizer="adamw", lr=8e-5, steps=5, samples=180, micro_batch=4),
}
RECIPES: dict = {}  # nothing ships; `recipes` says what can be trained
PROMPT = ""  # no words: Stable Diffusion learnt to do without


class DenseNetStages(nn.Module):
    """DenseNet's maps as DenseDepth joins them: after the first norm, the first pooling, two transitions, and the end.

    Args:
        densenet: timm's, whose classifier is left out.
    """

    stages = ("norm0", "pool0", "transition1", "transition2", "norm5")

    def __init__(self, densenet: nn.Module):
        super().__init__()
        self.features, self.widths = densenet.features, None
        with torch.no_grad():
            self.widths = [y.shape[1] for y in self(torch.zeros(1, 3, 64, 64))]

    @property
    def feature_info(self) -> DenseNetStages:
        """As timm's encoders have it."""
        return self

    def channels(self) -> list[int]:
        """Of the five maps, from half the image's size to a 32nd."""
        return self.widths

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> five maps."""
        found = []
        for name, layer in self.features.named_children():
            x = layer(x)
            if name in self.stages:
                found.append(x)
        return found


def densedepth(name: str = "nyuv2", trained: bool = False) -> DenseDepth:
    """DenseDepth on a data set's range of depths: DenseNet-169's encoder, the original's decoder of 1664 channels.

    Args:
        trained: whether the encoder's weights are ImageNet's, or random.
    """
    has = latent_maps.sizes(name)
    where = find(has.encoder, ENCODER)
    if trained:
        encoder = reach_timm(where)
    else:  # the shape alone; nothing is asked of the hub
        encoder = timm.create_model(f"local-dir:{where.path}" if where.checkpoint is None else "densenet169")
    stages = DenseNetStages(encoder.eval())
    return DenseDepth(stages, stages.widths[-1], has.near, has.far, IMAGENET_MEAN, IMAGENET_STD, whole=False)


def problem(network: str | None = None, diffusion: str | None = None, *, name: str = "nyuv2") -> Problem:
    """Depth in metres of NYU Depth v2's 654 test images ("nyuv2"), or of one's own pictures ("own-depth").

    Images are the middle squares, of the diffusion model's size. Validation images are a few of the training part.

    Args:
        network: "glpn" (the usual one), "densedepth" (trained by ``dtta train``), or the path of a folder that holds
            a ``GLPNForDepthEstimation``, or the weights of a DenseDepth alone (model.safetensors).
        diffusion: "controlnet-depth" (the usual one), "latent" (trained by ``dtta train``; for one's own data the
            usual one), or the path of a folder in the layout of a ``StableDiffusionControlNetPipeline``.

    Raises:
        ValueError: unknown names. FileNotFoundError: the data are not there.
        dtta.problems.training.weights.WeightsError: a checkpoint is missing, damaged, or cannot be reached.
    """
    pairs, has = dense_data.read(name), latent_maps.sizes(name)
    latent = diffusion == "latent" or (diffusion is None and name == "own-depth")
    f = load_network(network, name)
    phi = latent_maps.ready(name, 0) if latent else load_controlled(diffusion, DIFFUSIONS, PROMPT)
    errors, where = partial(scaled_depth_errors, near=has.near, far=has.far), device()
    return Problem(
        name=name,
        task="depth",
        classes=(),
        model=f.to(where),
        diffusion=phi.to(where),
        condition=DepthMap(has.near, has.far) if latent else RelativeDepth(has.near, has.far),
        draw=partial(_draw, pairs, phi.image_size, where),
        sizes={part: len(pairs[part]) for part in ("validation", "test")},
        shape=(3, phi.image_size, phi.image_size),
        shifts=tuple(IMAGE_SHIFTS),
        metric="SSIM",
        score=lambda output, target: errors(output, target)["SSIM"],
        sums=errors,
        metrics=SCALED_DEPTH_METRICS,
        settings={m: s | dict(adapt_diffusion=latent) for m, s in SETTINGS.items()},
    )


def needs(name: str, network: str | None, diffusion: str | None) -> tuple[list[Need], Callable[[], object]]:
    """What a problem asks of a machine: checkpoints, and a function that raises where data are missing."""
    latent = diffusion == "latent" or (diffusion is None and name == "own-depth")
    phi = latent_maps.needs(name) if latent else controlled_needs(diffusion, DIFFUSIONS)
    if network == "densedepth":
        how = f"dtta train {name} --only densedepth"
        f = Need("network", file=weights.path_of(name, "densedepth"), how=how)
    else:
        f = need("network", network, NETWORKS)
    return [f, *phi], lambda: dense_data.read(name)


def load_network(network: str | None = None, name: str = "nyuv2") -> nn.Module:
    """A depth network by name or from a folder. Raises as `problem` does."""
    near, far = latent_maps.sizes(name).near, latent_maps.sizes(name).far
    if network == "densedepth":
        path = weights.path_of(name, "densedepth")
        return weights.load(densedepth(name), path, f"dtta train {name} --only densedepth")
    where = find(network, NETWORKS | {"densedepth": None})
    if where.checkpoint is None and not (reach_file(where, "model.safetensors").parent / "config.json").is_file():
        return fill(densedepth(name), reach_file(where, "model.safetensors"), where)
    model = reach(GLPNForDepthEstimation, where)
    return Glpn(model, near=near, far=far, mean=0.0, std=1.0, metres=True)  # its processor scales to [0, 1] alone


def _draw(pairs, size, where, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    image, depth = pairs[split].at(index, size)
    image = apply_shift(image, shift, severity, seed, index, IMAGE_SHIFTS)
    return image.to(where), depth[None].to(where)


# --- training -----------------------------------------------------------------------------------------


def recipes(name: str) -> dict[str, Recipe]:
    """How the latent diffusion model and the DenseDepth of a data set are made."""
    has = latent_maps.sizes(name)
    condition = DepthMap(has.near, has.far)

    def make() -> DenseDepth:
        """DenseDepth on DenseNet-169, whose weights start as ImageNet left them."""
        return densedepth(name, trained=True).to(device())

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        image, depth = latent_maps.batch(name, generator)
        return depth_loss(model(image.to(device())), depth[:, None].to(device()))

    @torch.no_grad()
    def scores(model: nn.Module) -> dict[str, float]:
        image, depth = latent_maps.validation(name)
        pairs = zip(image.split(1), depth.split(1), strict=True)
        found = [scaled_depth_errors(model(x), d, has.near, has.far) for x, d in pairs]
        sums = {key: sum(f[key] for f in found) for key in found[0]} | {"images": len(found)}
        return {key: round(metric(sums).item(), 3) for key, metric in SCALED_DEPTH_METRICS.items()}

    data = f"the training part of {name}, pictures of {has.size} pixels, half of them mirrored"
    return {
        "latent": latent_maps.recipe(name, 0, lambda phi, maps: condition(maps)),
        "densedepth": Recipe(make, loss, scores, data, "that of the data", has.steps, 1e-4),
    }
