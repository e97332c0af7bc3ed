"""Diffusion models of your own: a pipeline of diffusers, in a folder or on the hub, or a ``dtta`` diffusion model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel, UNet2DModel
from torch import Tensor, nn

from dtta.core.conditions import ClassMixture, DepthMap, PixelMixture, RelativeDepth
from dtta.core.diffusion import ClassUNet, ConcatUNet, ControlledUNet, Diffusion, DiT, TextUNet
from dtta.core.problem import TextReader
from dtta.problems.data import hub
from dtta.problems.full.ade20k import colours as ade20k_colours
from dtta.problems.full.stable_diffusion import read_controlled, read_stable_diffusion
from dtta.problems.own.networks import read_json

KINDS = "a DiT, a UNet2DModel with classes, Stable Diffusion, or one with a ControlNet"
PUBLISHED_DIT = dict(num_layers=28, num_attention_heads=16, attention_head_dim=72, num_embeds_ada_norm=1000)


@dataclass(frozen=True)
class Model:
    """A diffusion model, the reader of its prompts, if it has one, its name, and its folder."""

    phi: Diffusion
    reader: TextReader | None = None
    name: str = ""
    folder: Path | None = None

    @property
    def channels(self) -> int:
        """Return the channels of its images."""
        if self.phi.vae is not None:
            return self.phi.vae.config.in_channels
        config = self.phi.network.config
        return config.in_channels if isinstance(self.phi, DiT) else min(config.in_channels, config.out_channels)

    @property
    def about(self) -> str:
        """Return a phrase for the user."""
        return f"{self.name} ({type(self.phi).__name__}): {self.phi.image_size} pixels"


def load(diffusion: Diffusion | str | Path) -> Model:
    """Return a diffusion model.

    Raises ValueError: it is none of the kinds above; ``WeightsError``: a part is missing, damaged or only pickled.
    """
    if isinstance(diffusion, Diffusion):
        return Model(diffusion, name="diffusion model")
    location = locate(diffusion)
    parts, name = parts_of(location), Path(location.path).name
    folder = Path(location.path) if location.checkpoint is None else None
    _check_scheduler(location, parts)
    if "text_encoder_2" in parts:
        raise ValueError(f"{location.path} has two text encoders, which dtta does not support; it takes {KINDS}")
    if "controlnet" in parts:
        return Model(read_controlled(location, location, "controlnet").float(), name=name, folder=folder)
    if "text_encoder" in parts and "unet" in parts:
        phi, reader = read_stable_diffusion(location)
        reader.encoder.float().to(hub.device())
        return Model(phi.float(), reader, name, folder)
    part = next((part for part in ("transformer", "unet") if part in parts), None)
    if part is None:
        raise ValueError(
            f"{location.path} is no pipeline of diffusers that dtta takes: {KINDS}; save the whole pipeline"
        )
    kind = _config(location, part).get("_class_name")
    classes = {"DiTTransformer2DModel": DiTTransformer2DModel, "UNet2DModel": UNet2DModel}
    if kind not in classes:
        raise ValueError(f"{location.path}/{part} is a {kind}, which dtta does not support; it takes {KINDS}")
    if "vqvae" in parts:
        raise ValueError(
            f"{location.path} has a VQ-VAE, which dtta does not support; it takes an AutoencoderKL or none"
        )
    kinds = {part: classes[kind], "scheduler": DDPMScheduler} | ({"vae": AutoencoderKL} if "vae" in parts else {})
    network, scheduler, *vae = hub.load_parts(location, **kinds)
    if not isinstance(network.config.sample_size, int):
        raise ValueError(f"{location.path}/{part}: sample_size must be a number, not {network.config.sample_size!r}")
    return Model(_adapter(network, scheduler, *vae).float(), name=name, folder=folder)


def _adapter(network: nn.Module, scheduler: DDPMScheduler, vae: nn.Module | None = None) -> Diffusion:
    config = network.config
    if isinstance(network, DiTTransformer2DModel):
        published = all(getattr(config, key) == value for key, value in PUBLISHED_DIT.items())
        return DiT(network, scheduler, vae, official=published)
    mapped = config.in_channels > config.out_channels and network.class_embedding is None
    return ConcatUNet(network, scheduler, vae) if mapped else ClassUNet(network, scheduler, vae)


def locate(diffusion: str | Path) -> hub.Location:
    """Return where a pipeline is: in a folder, or on the hub under OWNER/NAME. Raises ValueError: neither."""
    name = str(diffusion)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return hub.Location(str(folder))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return hub.Location(name, hub.Checkpoint(name, 0))
    raise ValueError(f"there is no folder {name!r} with a diffusion model; give a folder, or OWNER/NAME on the hub")


def parts_of(location: hub.Location) -> list[str]:
    """Return the names of a pipeline's parts."""
    if location.checkpoint is None:
        return [path.name for path in Path(location.path).iterdir() if path.is_dir()]
    index = json.loads(hub.locate_file(location, "model_index.json").read_text(encoding="utf-8"))
    return [name for name, value in index.items() if isinstance(value, list) and value[0]]


def _check_scheduler(location: hub.Location, parts: Sequence[str]) -> None:
    if "scheduler" not in parts:
        raise ValueError(f"{location.path} has no scheduler; save the whole pipeline, with its noise schedule")
    kind = _config(location, "scheduler", "scheduler_config.json").get("_class_name", "")
    if "Flow" in kind:
        raise ValueError(f"{location.path} is a flow-matching model ({kind}); give one that predicts noise")


def _config(location: hub.Location, part: str, name: str = "config.json") -> dict:
    return read_json(hub.locate_file(location, f"{part}/{name}"))


def condition_of(
    model: Model,
    task: str,
    names: Sequence[str],
    depths: tuple[float, float],
    prompt: str = "a photo of a {}",
    colours: Tensor | None = None,
) -> nn.Module:
    """Return the condition that leads from a task to a diffusion model. Raises ValueError: they do not fit."""
    phi = model.phi
    if task == "classification":
        return _of_classes(model, names, prompt)
    if not isinstance(phi, (ConcatUNet, ControlledUNet)):
        needed = "a ControlNet, or a UNet2DModel that takes the map as more channels"
        raise ValueError(f"{task} needs a diffusion model conditioned on maps ({needed}); {model.name} is none")
    if task == "depth":
        return RelativeDepth(*depths) if isinstance(phi, ControlledUNet) else _of_depth(model, depths)
    if isinstance(phi, ControlledUNet):
        phi.colours = _colours(model, len(names), colours).to(phi.prompt.device)
        return PixelMixture(lambda: phi.class_embeddings)
    added = phi.network.config.in_channels - phi.network.config.out_channels
    if hasattr(phi.network, "pixel_embedding"):
        _check_count(model, len(phi.class_embeddings), len(names))
        return PixelMixture(lambda: phi.class_embeddings)
    _check_count(model, added, len(names), "channels for the map's classes")
    return PixelMixture(torch.eye(len(names)))


def _of_classes(model: Model, names: Sequence[str], prompt: str) -> nn.Module:
    phi = model.phi
    if isinstance(phi, (ControlledUNet, ConcatUNet)):
        raise ValueError(
            f"{model.name} is conditioned on maps; classification needs one conditioned on classes or text"
        )
    if isinstance(phi, TextUNet):
        if model.reader is None:
            raise ValueError(
                "give the condition of this text-to-image model (condition=), or the folder of its pipeline"
            )
        return ClassMixture(model.reader([prompt.format(name) for name in names]))
    count, expected = len(phi.class_embeddings), len(names)
    if isinstance(phi, ClassUNet) and count == expected + 1:  # the last class is "no class"
        return ClassMixture(lambda: phi.class_embeddings[:expected])
    _check_count(model, count, expected)
    return ClassMixture(lambda: phi.class_embeddings)


def _check_count(model: Model, count: int, expected: int, what: str = "classes") -> None:
    if count != expected:
        raise ValueError(f"the network has {expected} classes, and the diffusion model {model.name} has {count} {what}")


def _of_depth(model: Model, depths: tuple[float, float]) -> nn.Module:
    config = model.phi.network.config
    if config.in_channels != config.out_channels + 1:
        raise ValueError(
            f"{model.name} must take one more channel than it predicts, the depth, not {config.in_channels}"
        )
    return DepthMap(*depths)


def _colours(model: Model, classes: int, colours: Tensor | None) -> Tensor:
    """Return the colour of each class (L, 3): as given, in the model's folder, or ADE20K's of its 150."""
    file = model.folder / "colours.txt" if model.folder else None
    if colours is None and model.phi.colours is not None:
        colours = model.phi.colours
    if colours is None and file and file.is_file():
        try:
            values = [list(bytes.fromhex(line)) for line in file.read_text(encoding="utf-8").split()]
            colours = torch.tensor(values) / 255
        except ValueError as error:
            raise ValueError(f"{file} must contain a colour such as 787878 for each class ({error})") from error
    if colours is None and classes == 150:
        colours = ade20k_colours()
    if colours is None:
        text = "the colours of the classes in the ControlNet's training maps are not known"
        raise ValueError(f"{text}: give colours, or write {file or 'colours.txt'} with one such as 787878 a line")
    if tuple(colours.shape) != (classes, 3):
        raise ValueError(f"the colours must have shape ({classes}, 3), one for each class, not {tuple(colours.shape)}")
    return colours
