"""ImageNet and its shifted versions at full scale: public classifiers under DiT-XL/2 (paper, Tables 1, 2, 5, 6, 8)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel
from safetensors import SafetensorError, safe_open
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.transforms.v2 import functional as T

from dtta.core.conditions import ClassMixture
from dtta.core.diffusion import DiT
from dtta.core.problem import Problem
from dtta.problems.corruptions import IMAGE_SHIFTS, apply_shift, check_severity
from dtta.problems.data import hub
from dtta.problems.data.imagenet import (
    CORRUPTIONS,
    LabelledFiles,
    check_data,
    class_names,
    corrupted,
    missing,
    read,
    root,
    training_images,
)
from dtta.problems.data.images import image_tensor, open_image
from dtta.problems.networks.wrappers import IMAGENET_MEAN, IMAGENET_STD, Classifier
from dtta.problems.training.weights import WeightsError

NETWORKS = hub.checkpoints("imagenet-networks")
DIFFUSIONS = hub.checkpoints("imagenet-diffusions")
# The paper's settings (section 3.2): 5 steps of 180 pairs, 20 in one pass, all of θ and φ. It uses Adam at 1e-5 or SGD
# at 5e-3; the released commands use the former for ResNet and ConvNeXt, the latter for ViT. TENT, CoTTA,
# EATA, SAR and DUSA do what their authors' code does for ImageNet (TENT, here one image at a time by default, answers
# before the step only where that is set), other methods have their defaults (dtta.methods). None of these were chosen
# on validation images here.
PAPER = dict(steps=5, samples=180, micro_batch=20, adapt_diffusion=True)
ADAM, SGD = dict(optimizer="adam", lr=1e-5), dict(optimizer="sgd", lr=5e-3, momentum=0.9)
TENT, RELEASED = dict(optimizer="nesterov", lr=2.5e-4), dict(answer_before_step=True, as_released=True)
COTTA = RELEASED | dict(optimizer="nesterov", lr=0.01, threshold=0.1, restore=0.001)
VIT_B_32 = dict(image_size=224, patch_size=32, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072)


@dataclass(frozen=True)
class View:
    """Preprocessing for the classifier and the diffusion model: resize the shorter side to `resize` pixels
    (antialiased) and crop the centre square of `crop` pixels; `keep_size`: but leave an image of that size unchanged.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    keep_size: bool = False

    def __call__(self, image, border: int = 0) -> Tensor:
        """Return a PIL image, less `border` pixels on each side, as (3, crop, crop) in [0, 1]."""
        x = image_tensor(image)
        x = x[:, border : x.shape[1] - border, border : x.shape[2] - border]
        if self.keep_size and x.shape[1:] == (self.crop, self.crop):
            return x
        x = T.resize(x, [self.resize], interpolation=T.InterpolationMode(self.interpolation), antialias=True)
        return T.center_crop(x.clamp(0, 1), [self.crop, self.crop])


def problem(
    network: str | None = None,
    diffusion: str | None = None,
    as_released: bool = False,
    keep_size: bool = False,
    *,
    name: str = "imagenet",
) -> Problem:
    """Return ImageNet's validation images, or a data set with its classes, with a classifier and DiT-XL/2.

    The shifts are common corruptions, applied when an image is read; imagenet-c reads the published corrupted files.
    Validation images are the first five of each class of ImageNet's training part, if that is in the data folder.

    Args:
        network: "resnet18" (default), "resnet50", "convnext-tiny", "convnext-large", "vit-b-32" (the weights of the
            paper, torchvision's), "convnext-tiny-fb", "convnext-large-fb", or the path of a folder in timm's layout or
            with the weights of a torchvision ViT or ConvNeXt.
        diffusion: "dit-xl-2-256" (default), "dit-xl-2-512", or the path of a folder in the pipeline's layout.
        as_released: as in appendix A.5 and the authors' code, resize images to 232 pixels, bilinear, and crop to 224
            for every network (by default only torchvision's; others have the preprocessing they were trained with),
            and mix a copy of the class embeddings, which stays fixed even if φ is adapted.
        keep_size: use files that already have the network's size, such as ImageNet-C's, as they are, like ImageNet-C's
            authors; by default they are resized and cropped too, as in the paper, which makes noise weaker.

    Raises ValueError: unknown names; FileNotFoundError: the data are missing; ``WeightsError``: a checkpoint is missing
    or damaged, or cannot be downloaded.
    """
    test = read(name, root(name))
    validation = training_images(tuple(test.classes))
    f, view, optimizer = load_classifier(network, test.classes)
    if as_released:
        view = View(232 * view.crop // 224, view.crop)
    view = replace(view, keep_size=keep_size)
    target = hub.device()
    phi = load_dit(diffusion).to(target)
    chosen = slice(None) if len(test.classes) == 1000 else torch.as_tensor(test.classes, device=target)
    copied = phi.class_embeddings.detach()[chosen].clone()
    splits = {"test": test} | ({"validation": validation} if validation else {})
    draw, shifts = (_draw_published, CORRUPTIONS) if name == "imagenet-c" else (_draw, tuple(IMAGE_SHIFTS))
    return Problem(
        name=name,
        task="classification",
        classes=class_names(test.classes),
        model=f.to(target),
        diffusion=phi,
        condition=ClassMixture(copied if as_released else lambda: phi.class_embeddings[chosen]),
        draw=partial(draw, splits, view, target),
        sizes={split: len(files) for split, files in splits.items()},
        shape=(3, view.crop, view.crop),
        shifts=shifts,
        metric="accuracy",
        score=partial(_score, test.accepted),
        settings={
            "diffusion-tta": PAPER | optimizer,
            "logits": ADAM | {k: PAPER[k] for k in ("steps", "samples")},
            "tent": TENT,
            "cotta": COTTA,
            "eata": dict(answer_before_step=True),
            "sar": RELEASED,
            "dusa": dict(as_released=True),  # also for one image at a time, which has no answer before its step
        },
        view=partial(view, border=test.border),
    )


def requirements(name: str, network: str | None, diffusion: str | None) -> hub.Requirements:
    """Return the checkpoints that a problem needs, and a function that raises FileNotFoundError if data are missing."""
    checkpoints = [hub.require("network", network, NETWORKS), hub.require("diffusion", diffusion, DIFFUSIONS)]
    return checkpoints, partial(check_data, name)


def load_classifier(network: str | None, classes: Sequence[int]) -> tuple[Classifier, View, dict]:
    """Return a classifier restricted to some classes, its preprocessing, and its optimizer's settings.

    Raises WeightsError as `problem`; ValueError: it does not predict ImageNet's thousand classes.
    """
    location = hub.locate(network, NETWORKS)
    if location.checkpoint is not None and location.checkpoint.conversion:
        hub.locate_file(location, "model.safetensors")  # raises, with the command that converts it
    released = _from_torchvision(location) if location.checkpoint is None else None
    if released is not None:
        model, crop = released
        view, settings = View(232 * crop // 224, crop), SGD if isinstance(model, VisionTransformer) else ADAM
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        outputs = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1].out_features
    else:
        model = hub.load_timm(location)
        config, pretrained = resolve_model_data_config(model), model.pretrained_cfg or {}
        mean, std, outputs, crop = config["mean"], config["std"], model.num_classes, config["input_size"][-1]
        if "tv_in1k" in f"{location.path} {pretrained.get('tag')}":
            view = View(232 * crop // 224, crop)
        else:
            view = View(int(crop / config["crop_pct"]), crop, config["interpolation"])
        settings = SGD if "vit" in str(pretrained.get("architecture")) else ADAM
    if outputs != 1000:
        raise ValueError(f"{location.path} predicts {outputs} classes, not ImageNet's thousand")
    return Classifier(model, mean, std, None if len(classes) == 1000 else classes), view, settings


def _from_torchvision(location: hub.Location) -> tuple[nn.Module, int] | None:
    """Return torchvision's ViT or ConvNeXt of a folder, and its image size; None if the folder has timm's layout.

    The weights give a ConvNeXt's shape; a ViT's is in config.json, without which it is ViT-B/32's.
    """
    try:
        config = json.loads(hub.locate_file(location, "config.json").read_text(encoding="utf-8"))
    except WeightsError:
        config = VIT_B_32
    except ValueError as error:
        raise WeightsError(f"{location.path}/config.json is damaged ({error}); download it again") from error
    if "architecture" in config:
        return None
    weights = hub.locate_file(location, "model.safetensors")
    model = _convnext(weights) or VisionTransformer(**config)
    return hub.load_weights(model, weights, location), getattr(model, "image_size", 224)


def _convnext(weights: Path) -> ConvNeXt | None:
    """Return an untrained ConvNeXt of torchvision's with the widths and depths of a file; None if it holds none."""
    try:
        with safe_open(weights, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None  # the error is raised when the weights are read
    blocks = [name.split(".")[1] for name in shapes if name.endswith(".layer_scale")]
    stages = sorted(set(blocks))
    if not stages or "classifier.2.bias" not in shapes:
        return None
    widths = [shapes[f"features.{stage}.0.layer_scale"][0] for stage in stages] + [None]
    settings = [CNBlockConfig(*widths[k : k + 2], blocks.count(stage)) for k, stage in enumerate(stages)]
    return ConvNeXt(settings, num_classes=shapes["classifier.2.bias"][0])


def load_dit(diffusion: str | None = None) -> DiT:
    """Load a latent DiT with its VAE, by name or from a folder. Raises as `problem`."""
    location = hub.locate(diffusion, DIFFUSIONS)
    phi = DiT(*hub.load_parts(location, transformer=DiTTransformer2DModel, scheduler=DDPMScheduler, vae=AutoencoderKL))
    classes = len(phi.class_embeddings)
    if classes != 1000:
        raise WeightsError(f"{location.path} was trained on {classes} classes, not on ImageNet's thousand")
    return phi


def _score(accepted: dict[int, frozenset[int]], output: Tensor, label: Tensor) -> float:
    """Whether the predicted class is the image's, or one that ObjectNet's mapping counts as correct too."""
    prediction, label = output.argmax(dim=1).item(), label.item()
    return float(prediction in accepted.get(label, {label}))


def _draw(splits: dict[str, LabelledFiles], view, target, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    files = splits[split]
    image = view(open_image(files.paths[index]), files.border)
    image = apply_shift(image, shift, severity, seed, index, IMAGE_SHIFTS)
    return image.to(target), torch.tensor(files.labels[index])


def _draw_published(splits, view, target, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    """Read a file of ImageNet-C; clean images are ImageNet's, validation images are corrupted by our own code."""
    if split != "test":
        return _draw(splits, view, target, split, index, shift, severity, seed)
    check_severity(shift, severity, CORRUPTIONS)
    path = splits["test"].paths[index]
    clean = shift == "clean"
    folder = root("imagenet") if clean else corrupted(root("imagenet-c"), shift, int(severity))
    file = folder / path.parent.name / path.name
    if not file.is_file():
        raise missing("imagenet" if clean else "imagenet-c", f"{path.name} is not in it", file.parent)
    return view(open_image(file)).to(target), torch.tensor(splits["test"].labels[index])
