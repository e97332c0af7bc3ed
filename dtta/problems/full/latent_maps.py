"""A latent diffusion model conditioned on maps, trained from scratch on images and maps of your own.

The paper's form for segmentation and depth (section 3, Figure 7), whose models were never released: a frozen
autoencoder, and a UNet on the noisy latent and the map, concatenated. Sizes, which the paper does not state, follow
CompVis' latent diffusion for semantic synthesis at 256 pixels, except for the autoencoder, Stable Diffusion's.

    dtta train ade20k --only latent --to weights      then: export DTTA_WEIGHTS=weights
    dtta evaluate --problem ade20k --diffusion latent

A file settings.json in the data set's folder overrides any of ``Sizes``, for training and for use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from dtta.core.diffusion import ConcatUNet, ControlledUNet
from dtta.problems.data import dense as dense_data
from dtta.problems.data import hub
from dtta.problems.full.stable_diffusion import controlled_requirements, load_controlled
from dtta.problems.training import weights
from dtta.problems.training.fit import denoising_loss
from dtta.problems.training.recipes import Recipe, map_losses

VAES = hub.checkpoints("autoencoders")
# The paper states nothing for depth, nor for the ControlNet; for its segmentation models AdamW at 8e-5 (stated
# elsewhere by its authors), and φ is adapted. Steps and samples are those of its other tasks. None of these were chosen
# on validation images here.
SETTINGS = dict(optimizer="adamw", lr=8e-5, steps=5, samples=180)
Condition = Callable[[ConcatUNet, Tensor], Tensor]  # diffusion model, true maps (N, H, W) -> c


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model and of its training.

    Args:
        vae, encoder: autoencoder, and DenseDepth's pretrained encoder (depth): each a name or a folder.
        size: side of the images in pixels.
        widths: channels of the UNet's levels; all but the first have attention.
        blocks, groups: residual blocks in each level, groups of its group norms.
        embedding: D, length of a class embedding (segmentation).
        near, far: range of depths in metres (depth).
        batch, steps, lr: of training.
    """

    vae: str = "sd-vae-ft-mse"
    size: int = 256
    widths: tuple[int, ...] = (128, 512, 1024)
    blocks: int = 2
    groups: int = 32
    embedding: int = 8
    near: float = 0.5
    far: float = 10.0
    encoder: str = "densenet169"
    batch: int = 16
    steps: int = 200_000
    lr: float = 5e-5


def is_chosen(name: str, diffusion: str | None) -> bool:
    """Return whether the diffusion model is such a model: if named "latent", and by default for your own data."""
    return diffusion == "latent" or (diffusion is None and name.startswith("own-"))


def sizes(name: str) -> Sizes:
    """Return the sizes for a data set. Raises ValueError if its settings.json is damaged or has unknown entries."""
    path = dense_data.folder(name) / "settings.json"
    if not path.is_file():
        return Sizes()
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        unknown = set(settings) - {field.name for field in fields(Sizes)}
        if unknown:
            raise ValueError(f"unknown {', '.join(sorted(unknown))}; choose from {', '.join(asdict(Sizes()))}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return replace(Sizes(), **{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})


def build(name: str, classes: int) -> ConcatUNet:
    """Return a UNet on noisy latent and map: of class embeddings, or depth if `classes` is 0. `load` adds the VAE."""
    shape = sizes(name)
    channels = shape.embedding if classes else 1
    vae = load_vae(name)
    latent, halvings = vae.config.latent_channels, len(vae.config.block_out_channels) - 1
    attended = len(shape.widths) - 1
    network = UNet2DModel(
        sample_size=shape.size // 2**halvings, in_channels=latent + channels, out_channels=latent,
        block_out_channels=shape.widths, layers_per_block=shape.blocks, norm_num_groups=shape.groups,
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * attended),
        up_block_types=(*["AttnUpBlock2D"] * attended, "UpBlock2D"),
    )  # fmt: skip
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0205)
    return ConcatUNet(network, schedule, classes=classes, dimension=channels if classes else 0).to(hub.device())


def load_vae(name: str) -> AutoencoderKL:
    """Return the frozen autoencoder of a data set's models. Raises as ``hub.locate`` and ``hub.load_part``."""
    return _load_vae(sizes(name).vae)


@cache
def _load_vae(name: str) -> AutoencoderKL:
    return hub.load_part(AutoencoderKL, hub.locate(name, VAES)).requires_grad_(False)


def trained_file(what: str, name: str, model: str) -> hub.Requirement:
    """Return the weights file of a model that ``dtta train`` makes, as a requirement."""
    return hub.Requirement(what, file=weights.path_of(name, model), command=f"dtta train {name} --only {model}")


def load(
    name: str,
    diffusion: str | None,
    table: Mapping[str, hub.Checkpoint],
    classes: int = 0,
    colours: Tensor | None = None,
) -> ConcatUNet | ControlledUNet:
    """Return a data set's trained model, with its autoencoder, if it is chosen; else as ``load_controlled``.

    Raises WeightsError: it has not been trained, or a checkpoint is missing or damaged.
    """
    if not is_chosen(name, diffusion):
        return load_controlled(diffusion, table, colours=colours)
    trained = trained_file("diffusion", name, "latent")
    phi = weights.load(build(name, classes), trained.file, trained.command)
    phi.vae = load_vae(name)
    return phi


def requirements(name: str, diffusion: str | None, table: Mapping[str, hub.Checkpoint]) -> list[hub.Requirement]:
    """Return what `load` needs."""
    if not is_chosen(name, diffusion):
        return controlled_requirements(diffusion, table)
    return [trained_file("diffusion", name, "latent"), hub.require("autoencoder", sizes(name).vae, VAES)]


def description(name: str) -> str:
    """Return the description of the training data for a model card."""
    return f"the training part of {name}, images of {sizes(name).size} pixels, half of them mirrored"


def recipe(name: str, classes: int, condition: Condition) -> Recipe:
    """Return how to train such a model on a data set's training part."""
    shape = sizes(name)

    def make() -> nn.Module:
        return build(name, classes)

    make.__doc__ = (
        f"A latent diffusion model conditioned on {'class embedding' if classes else 'depth'} maps "
        f"(UNet widths {', '.join(map(str, shape.widths))}; autoencoder {shape.vae}, frozen)."
    )

    def loss(phi: ConcatUNet, generator: torch.Generator) -> Tensor:
        image, maps = batch(name, generator)
        vae = load_vae(name).to(hub.device())
        with torch.no_grad():
            z0 = vae.encode(2 * image.to(hub.device()) - 1).latent_dist.mean * vae.config.scaling_factor
        return denoising_loss(phi, z0, condition(phi, maps.to(hub.device())), generator)

    @torch.no_grad()
    def scores(phi: ConcatUNet) -> dict[str, float]:
        """Compare the loss of validation images under their own map and under another image's."""
        image, maps = validation(name)
        phi.vae = load_vae(name).to(hub.device())
        conditions = {"the true map": condition(phi, maps), "the other's map": condition(phi, maps.roll(1, 0))}
        losses = map_losses(phi, image, conditions, batch=8)
        phi.vae = None
        return losses

    return Recipe(make, loss, scores, description(name), "that of the data", shape.steps, shape.lr)


def validation(name: str, most: int = 32) -> tuple[Tensor, Tensor]:
    """Return the first validation images and their maps, as `batch` does, on the device of the models."""
    pairs = dense_data.read(name)["validation"]
    image, maps = _stack([pairs.load(i, sizes(name).size) for i in range(min(len(pairs), most))])
    return image.to(hub.device()), maps.to(hub.device())


def _stack(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    image, maps = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return image, maps


@cache
def _training_pairs(name: str, folder: Path) -> dense_data.Pairs:
    return dense_data.read(name)["train"]


def batch(name: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return random training images, half of them mirrored, (N, 3, H, W), and their maps (N, H, W)."""
    pairs, shape = _training_pairs(name, dense_data.folder(name)), sizes(name)
    pick = torch.randint(len(pairs), (shape.batch,), generator=generator).tolist()
    mirrored = torch.rand(shape.batch, generator=generator) < 0.5
    with ThreadPoolExecutor() as pool:  # decoding an image releases the GIL
        image, maps = _stack(list(pool.map(lambda index: pairs.load(index, shape.size), pick)))
    image[mirrored], maps[mirrored] = image[mirrored].flip(-1), maps[mirrored].flip(-1)
    return image, maps
