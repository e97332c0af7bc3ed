"""Task networks of your own: a torch module, a timm name, or a folder as timm or transformers writes it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from transformers import AutoImageProcessor, CLIPModel, CLIPTokenizer

from dtta.problems.data import hub
from dtta.problems.networks.clip import ClipClassifier, check_names
from dtta.problems.networks.wrappers import Classifier, Glpn, Segmenter

METRIC = ("GLPNForDepthEstimation", "ZoeDepthForDepthEstimation")  # depth networks that predict metres
TASKS = ("classification", "segmentation", "depth")
View = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Network:
    """A task network and all that its configuration states.

    Args:
        module: images in [0, 1] -> logits or depths; the network itself if `raw`, else with its normalisation.
        task: one of `TASKS`, or "" if only its output shows it.
        view: a picture -> the image that the network takes; None: the centre square in the diffusion model's size.
        channels: of its images.
        side: size of the images that a dense network was trained on, or 0.
        names: of its classes, or ().
        depths: nearest and furthest depth, if it states them.
        about: name and preprocessing, for the user.
        mean, std: of its normalisation.
    """

    module: nn.Module
    task: str = ""
    view: View | None = None
    channels: int = 3
    side: int = 0
    names: tuple[str, ...] = ()
    depths: tuple[float, float] | None = None
    about: str = ""
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    raw: bool = True


def load(network: nn.Module | str | Path, classes: Sequence[str] = (), prompt: str = "a photo of a {}") -> Network:
    """Return a network.

    `classes`, `prompt`: the names that CLIP chooses among, and the sentence that is made of a name.
    Raises ValueError: it is none of the kinds above, or cannot be used; ``WeightsError``: it cannot be read.
    """
    if isinstance(network, ClipClassifier):
        about = f"CLIP with {len(network.names)} names"
        return Network(network, "classification", names=network.names, about=about, raw=False)
    if isinstance(network, nn.Module):
        has_config = isinstance(getattr(network, "pretrained_cfg", None), dict) and hasattr(network, "num_classes")
        name = type(network).__name__
        if has_config:
            return _timm(network, name)
        return Network(network.float().eval(), about=f"{name} on images in [0, 1], which it normalises")
    location = locate(network)
    about = read_json(hub.locate_file(location, "config.json"))
    if "architecture" in about:
        return _timm(hub.load_timm(location), Path(location.path).name, about)
    if about.get("architectures"):
        return _transformers(location, about, classes, prompt)
    raise ValueError(
        f"{location.path}/config.json names no architecture of timm or transformers; save the network again"
    )


def locate(network: str | Path) -> hub.Location:
    """Return where a network is: in a folder, or on the hub under timm's name or OWNER/NAME. Raises ValueError."""
    name = str(network)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return hub.Location(str(folder))
    if timm.is_model(name):
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.hf_hub_id:
            raise ValueError(
                f"timm publishes no weights for {name}; give a folder that contains config.json and weights"
            )
        repository = config.hf_hub_id
        if repository.endswith("/"):
            repository += ".".join(filter(None, (config.architecture or name.split(".")[0], config.tag)))
        return hub.Location(repository, hub.Checkpoint(repository, 0))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return hub.Location(name, hub.Checkpoint(name, 0))
    close = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), 3)
    similar = f"; similar names: {', '.join(close)}" if close else ""
    raise ValueError(f"there is no folder {name!r}, and timm has no network of this name{similar}")


def timm_view(config: dict) -> View:
    """Return timm's transform for evaluation without its normalisation: a picture -> (C, H, W) in [0, 1].

    A grey picture of more than 8 bits is rounded to 8, in which timm's transform works.
    """
    channels = config["input_size"][0]
    unchanged = dict(mean=(0.0,) * channels, std=(1.0,) * channels)
    transform = create_transform(**{**config, **unchanged}, is_training=False)
    return lambda image: transform(_eight_bits(image).convert("L" if channels == 1 else "RGB"))


def processed(image: Image.Image, processor: Any) -> Tensor:
    """Apply a transformers image processor without its normalisation: a picture -> (3, H, W) in [0, 1]."""
    image = _eight_bits(image).convert("RGB")
    return processor(images=image, do_normalize=False, return_tensors="pt")["pixel_values"][0]


def wrapped(network: Network, task: str, side: int, near: float, far: float) -> nn.Module:
    """Return a network for images in [0, 1] of `side` pixels, with the normalisation of its configuration."""
    if not network.raw:
        return network.module
    normalised = dict(mean=network.mean, std=network.std)
    if task == "classification":
        return Classifier(network.module, **normalised)
    enlarge = network.side / side if network.side else 1
    if task == "segmentation":
        return Segmenter(network.module, enlarge, **normalised)
    return Glpn(network.module, enlarge, near=near, far=far, metres=True, **normalised)


def _timm(network: nn.Module, name: str, about: dict | None = None) -> Network:
    if not network.num_classes:
        raise ValueError(f"{name} has no classifier (num_classes=0); give the network with its last layer")
    config = _data_config(network)
    given = (about or {}).get("label_names") or (network.pretrained_cfg or {}).get("label_names") or ()
    resize = f"{config['interpolation']}, {config['crop_mode']} crop of {config['crop_pct']:g}"
    size = " x ".join(map(str, config["input_size"][1:]))
    return Network(
        network.float().eval(),
        "classification",
        timm_view(config),
        config["input_size"][0],
        names=tuple(given),
        about=f"{name} (timm): {size} pixels, {resize}, mean {_numbers(config['mean'])}, std {_numbers(config['std'])}",
        mean=config["mean"],
        std=config["std"],
    )


def _data_config(network: nn.Module) -> dict:
    """Return timm's configuration of the preprocessing, with the channels and size that the network was made with.

    timm keeps those of the original weights in it. One channel is normalised with the mean over the three.
    """
    config = dict(resolve_model_data_config(network))
    channels, *size = config["input_size"]
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is not None and first.in_channels in (1, 3):
        channels = first.in_channels
    size = getattr(getattr(network, "patch_embed", None), "img_size", None) or size
    if len(config["mean"]) != channels:
        config |= {name: (sum(config[name]) / len(config[name]),) * channels for name in ("mean", "std")}
    return config | {"input_size": (channels, *size)}


def _transformers(location: hub.Location, about: dict, classes: Sequence[str], prompt: str) -> Network:
    name, kind = Path(location.path).name, about["architectures"][0]
    if kind == "CLIPModel":
        if not classes:
            raise ValueError(f"{name} is a CLIP, which needs class names: give classes")
        clip, tokenizer = hub.load_part(CLIPModel, location).float(), hub.load_part(CLIPTokenizer, location)
        model = ClipClassifier(clip, tokenizer, check_names(classes), (prompt,))
        return replace(load(model), about=f"{name} (CLIP): {model.size} pixels, {len(classes)} names in {prompt!r}")
    tasks = {"ForImageClassification": TASKS[0], "ForSemanticSegmentation": TASKS[1], "ForDepthEstimation": TASKS[2]}
    task = next((task for ending, task in tasks.items() if kind.endswith(ending)), "")
    if not task or not hasattr(transformers, kind):
        raise ValueError(
            f"{location.path} is a {kind}; dtta takes {', '.join(tasks)}, CLIPModel and timm's classifiers"
        )
    metric = kind in METRIC or about.get("depth_estimation_type") == "metric"
    if task == "depth" and not metric:
        text = "give a network of metric depth, or wrap it in a module that returns depths"
        raise ValueError(f"{location.path} ({kind}) predicts relative inverse depths, not depths; {text}")
    settings = read_json(hub.locate_file(location, "preprocessor_config.json")) if _has_processor(location) else {}
    network = hub.load_part(getattr(transformers, kind), location).float().eval()
    normalises = settings.get("do_normalize", "image_mean" in settings) and "image_mean" in settings
    mean, std = (settings["image_mean"], settings["image_std"]) if normalises else ((0.0,), (1.0,))
    labels = network.config.id2label if task != "depth" else {}
    names = tuple(labels[k].strip() for k in sorted(labels))
    view, side = None, _side(settings)
    if task == "classification":
        if not settings:
            raise ValueError(
                f"{location.path} has no preprocessor_config.json; save the network's image processor there"
            )
        view, side = partial(processed, processor=hub.load_part(AutoImageProcessor, location)), 0
    far = float(getattr(network.config, "max_depth", 0) or 0)
    text = f"mean {_numbers(mean)}, std {_numbers(std)}" if normalises else "pixels in [0, 1]"
    pixels = f"{side} pixels, " if side else ""
    return Network(
        network,
        task,
        view,
        side=side,
        names=() if all(name.startswith("LABEL_") for name in names) else names,
        depths=(far / 20, far) if far > 0 else None,
        about=f"{name} ({kind}): {pixels}{text}",
        mean=mean,
        std=std,
    )


def _has_processor(location: hub.Location) -> bool:
    return location.checkpoint is not None or (Path(location.path) / "preprocessor_config.json").is_file()


def _side(settings: dict) -> int:
    """Return the side of the squares that a processor makes, or 0."""
    size = settings.get("size", 0)
    if isinstance(size, dict):
        return size["height"] if size.get("height") == size.get("width") else size.get("shortest_edge", 0)
    return size if isinstance(size, int) else 0


def _eight_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.array(image) * 255).round().astype(np.uint8)) if image.mode == "F" else image


def _numbers(values: Sequence[float]) -> str:
    different = dict.fromkeys(f"{value:.3g}" for value in values)
    return different.popitem()[0] if len(different) == 1 else f"({', '.join(f'{value:.3g}' for value in values)})"


def read_json(path: Path) -> dict:
    """Return the content of a file. Raises ValueError: it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from error


@torch.no_grad()
def output_of(module: nn.Module, shape: Sequence[int], about: str) -> Tensor:
    """Return the output for a grey image. Raises ValueError: the network does not take images of this shape."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        return module(torch.full((1, *shape), 0.5, device=device))
    except Exception as error:  # in the user's code
        size = " x ".join(map(str, shape))
        raise ValueError(f"the network {about} does not take an image of {size} ({error})") from error
