"""A latent diffusion model that sees maps beside the noisy latent, trained from nothing on one's own pictures and maps.

The paper's form for segmentation and depth (section 3, Figure 7), whose models were never released: a frozen
autoencoder, and a UNet on the channels of the noisy latent and of the map. The paper states neither its size nor how
it was trained; the sizes here follow the public recipe nearest to it, CompVis' latent diffusion for semantic
synthesis at 256 pixels (widths 128, 512, 1024, two blocks each), but for the autoencoder, which is Stable Diffusion's.

    dtta train ade20k --only latent --to weights      then: export DTTA_WEIGHTS=weights
    dtta evaluate --problem ade20k --diffusion latent

A file settings.json beside the data overrides any of ``Sizes``, for training and for use.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import cache

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from dtta.core.diffusion import ConcatUNet
from dtta.core.probe import losses_under
from dtta.problems.data import dense as dense_data
from dtta.problems.data.hub import Checkpoint, Need, device, find, need, reach
from dtta.problems.training import weights
from dtta.problems.training.fit import denoising_loss
from dtta.problems.training.recipes import Recipe

VAES = {"sd-vae-ft-mse": Checkpoint("stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493", 0.33)}
Conditions = Callable[[ConcatUNet, Tensor], Tensor]  # of a diffusion model, and true maps (N, H, W) -> c


@dataclass(frozen=True)
class Sizes:
    """What decides a model's shape and its training.

    Args:
        vae: the autoencoder, a name or a folder.
        size: side of the pictures in pixels.
        widths: channels of the UNet's levels; all but the first have attention.
        blocks: residual blocks in each level.
        groups: of its group norms.
        embedding: D, numbers in which a class is told (segmentation).
        near, far: range of depths in metres (depth).
        encoder: what DenseDepth starts from, a name or a folder (depth).
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


def sizes(name: str) -> Sizes:
    """Those of a data set. Raises ValueError if its settings.json is damaged or names anything else."""
    path = dense_data.folder(name) / "settings.json"
    if not path.is_file():
        return Sizes()
    try:
        given = json.loads(path.read_text())
        if unknown := set(given) - {field.name for field in fields(Sizes)}:
            raise ValueError(f"unknown {', '.join(sorted(unknown))}; choose from {', '.join(asdict(Sizes()))}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return replace(Sizes(), **{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})


def build(name: str, classes: int) -> ConcatUNet:
    """A UNet on the noisy latent and a map's channels: class embeddings, or one depth.

    It holds no autoencoder: that is frozen, and added by ``ready``.
    """
    has, channels = sizes(name), sizes(name).embedding if classes else 1
    vae = load_vae(name)
    latent, halvings = vae.config.latent_channels, len(vae.config.block_out_channels) - 1
    attended = len(has.widths) - 1
    network = UNet2DModel(
        sample_size=has.size // 2**halvings, in_channels=latent + channels, out_channels=latent,
        block_out_channels=has.widths, layers_per_block=has.blocks, norm_num_groups=has.groups,
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * attended),
        up_block_types=(*["AttnUpBlock2D"] * attended, "UpBlock2D"),
    )  # fmt: skip
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0205)
    return ConcatUNet(network, schedule, classes=classes, dimension=channels if classes else 0).to(device())


def load_vae(name: str) -> AutoencoderKL:
    """The frozen autoencoder of a data set's models. Raises ValueError or WeightsError: see ``checkpoints``."""
    return _vae(sizes(name).vae)


@cache
def _vae(name: str) -> AutoencoderKL:
    return reach(AutoencoderKL, find(name, VAES)).requires_grad_(False)


def ready(name: str, classes: int) -> ConcatUNet:
    """The trained model of a data set, with its autoencoder. Raises WeightsError if it has not been trained."""
    path = weights.path_of(name, "latent")
    phi = weights.load(build(name, classes), path, f"dtta train {name} --only latent")
    phi.vae = load_vae(name)
    return phi


def needs(name: str) -> list[Need]:
    """What `ready` asks of a machine."""
    trained = weights.path_of(name, "latent")
    how = f"dtta train {name} --only latent"
    return [Need("diffusion", file=trained, how=how), need("autoencoder", sizes(name).vae, VAES)]


# --- training -----------------------------------------------------------------------------------------


def recipe(name: str, classes: int, condition: Conditions) -> Recipe:
    """How such a model is made of a data set's training part."""
    has = sizes(name)

    def make() -> nn.Module:
        return build(name, classes)

    make.__doc__ = (
        f"A latent diffusion model on {'class embeddings' if classes else 'depth'} maps beside the noisy latent "
        f"(UNet widths {', '.join(map(str, has.widths))}; autoencoder {has.vae}, frozen)."
    )

    def loss(phi: ConcatUNet, generator: torch.Generator) -> Tensor:
        image, maps = batch(name, generator)
        with torch.no_grad():
            z0 = _encoded(name, phi, image)
        return denoising_loss(phi, z0, condition(phi, maps.to(device())), generator)

    @torch.no_grad()
    def scores(phi: ConcatUNet) -> dict[str, float]:
        """Does it listen? Its loss on pictures under their own map and under another's."""
        image, maps = validation(name)
        phi.vae = load_vae(name).to(device())
        conditions = [condition(phi, maps), condition(phi, maps.roll(1, 0))]
        losses = losses_under(phi, image, conditions, batch=8).mean(0).tolist()
        phi.vae = None
        return {f"loss under the {kind} map": round(x, 5) for kind, x in zip(("true", "other's"), losses, strict=True)}

    data = f"the training part of {name}, pictures of {has.size} pixels, half of them mirrored"
    return Recipe(make, loss, scores, data, "that of the data", has.steps, has.lr)


def validation(name: str, most: int = 32) -> tuple[Tensor, Tensor]:
    """The first validation pictures and their maps, as `batch` gives them, on the device of the models."""
    pairs = dense_data.read(name)["validation"]
    found = [pairs.at(i, sizes(name).size) for i in range(min(len(pairs), most))]
    image, maps = (torch.stack(parts).to(device()) for parts in zip(*found, strict=True))
    return image, maps


def _encoded(name: str, phi: ConcatUNet, image: Tensor) -> Tensor:
    vae = load_vae(name).to(device())
    return vae.encode(2 * image.to(device()) - 1).latent_dist.mean * vae.config.scaling_factor


@cache
def _training(name: str, folder) -> dense_data.Pairs:
    return dense_data.read(name)["train"]


def batch(name: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random training pictures, half of them mirrored: (N, 3, H, W) and their maps (N, H, W)."""
    pairs, has = _training(name, dense_data.folder(name)), sizes(name)
    pick = torch.randint(len(pairs), (has.batch,), generator=generator).tolist()
    mirrored = torch.rand(has.batch, generator=generator) < 0.5
    with ThreadPoolExecutor() as pool:  # decoding pictures lets other threads run
        found = list(pool.map(lambda index: pairs.at(index, has.size), pick))
    image, maps = (torch.stack(parts) for parts in zip(*found, strict=True))
    image[mirrored], maps[mirrored] = image[mirrored].flip(-1), maps[mirrored].flip(-1)
    return image, maps
