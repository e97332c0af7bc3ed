"""Segmentation at full scale: SegFormer on ADE20K, or on images and label maps of your own (paper, Table 4).

The diffusion model is Stable Diffusion 1.5 with the ControlNet trained on ADE20K's colours: each pixel of its condition
is the mean of the class colours, weighted by the belief. Its parameters are not adapted. The paper's latent diffusion
model, given a map of mixed class embeddings, was never released; ``dtta train ade20k`` trains one
(``dtta.problems.full.latent_maps``).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import SegformerForSemanticSegmentation

from dtta.core.conditions import PixelMixture
from dtta.core.diffusion import ConcatUNet
from dtta.core.problem import Problem
from dtta.problems.corruptions import IMAGE_SHIFTS, apply_shift
from dtta.problems.data import dense as dense_data
from dtta.problems.data import hub
from dtta.problems.data.images import center_square
from dtta.problems.full import latent_maps
from dtta.problems.metrics import class_counts, segmentation_metrics
from dtta.problems.networks.wrappers import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from dtta.problems.training.recipes import Recipe

NETWORKS = hub.checkpoints("ade20k-networks")
DIFFUSIONS = hub.checkpoints("ade20k-diffusions")
check_data = dense_data.check_data


def colours() -> Tensor:
    """Return the colours of ADE20K's classes (color150), (150, 3) in [0, 1], on which the ControlNet was trained."""
    table = Path(__file__).with_name("ade20k_colours.txt").read_text(encoding="utf-8")
    return torch.tensor([list(bytes.fromhex(colour)) for colour in table.split()]) / 255


def problem(network: str | None = None, diffusion: str | None = None, *, name: str = "ade20k") -> Problem:
    """Return segmentation of ADE20K's validation part into 150 classes, or of your own data ("own-segmentation").

    Images are centre squares of the diffusion model's size. Validation images are the first of the training part.

    Args:
        network: "segformer-b0" (default) to "segformer-b5", or the path of a folder with a
            ``SegformerForSemanticSegmentation``; for your own data, a folder.
        diffusion: "controlnet-seg" (ADE20K's default), "latent" (trained by ``dtta train``; the default for your own
            data), or the path of a folder in the layout of a ``StableDiffusionControlNetPipeline``.

    Raises ValueError: unknown names, or a network with other classes; FileNotFoundError: the data are missing;
    ``WeightsError``: a checkpoint is missing or damaged, or cannot be downloaded.
    """
    own = name == "own-segmentation"
    pairs = dense_data.read(name)
    if own and network is None:
        raise ValueError("own-segmentation needs a network: give the path of a folder with a SegFormer for it")
    f = load_segformer(network)
    labels = f.network.config.id2label
    classes = dense_data.own_classes() if own else tuple(labels[k].strip() for k in range(len(labels)))
    if len(labels) != len(classes) or (len(classes) > len(colours()) and not own):
        raise ValueError(f"the network predicts {len(labels)} classes, the data have {len(classes)}")
    phi = latent_maps.load(name, diffusion, DIFFUSIONS, len(classes), colours()[: len(classes)])
    f.enlarge = max(1, f.side / phi.image_size)
    counts, metrics = partial(class_counts, classes=classes), segmentation_metrics(classes)
    target = hub.device()
    return Problem(
        name=name,
        task="segmentation",
        classes=classes,
        model=f.to(target),
        diffusion=phi.to(target),
        condition=PixelMixture(lambda: phi.class_embeddings),
        draw=partial(_draw, pairs, len(classes), phi.image_size, target),
        sizes={part: len(pairs[part]) for part in ("validation", "test")},
        shape=(3, phi.image_size, phi.image_size),
        shifts=tuple(IMAGE_SHIFTS),
        metric="mean class accuracy",
        score=lambda output, labels: metrics["mean class accuracy"](counts(output, labels)).item() / 100,
        sums=counts,
        metrics=metrics,
        settings={"diffusion-tta": latent_maps.SETTINGS | dict(adapt_diffusion=isinstance(phi, ConcatUNet))},
        view=partial(center_square, size=phi.image_size),
    )


def requirements(name: str, network: str | None, diffusion: str | None) -> hub.Requirements:
    """Return the checkpoints that a problem needs, and a function that raises FileNotFoundError if data are missing."""
    phi = latent_maps.requirements(name, diffusion, DIFFUSIONS)
    return [hub.require("network", network, NETWORKS), *phi], partial(check_data, name)


def load_segformer(network: str | None = None) -> Segmenter:
    """Return a SegFormer by name or from a folder; its ``side``: size of the images that it was trained on."""
    location = hub.locate(network, NETWORKS)
    model = Segmenter(hub.load_part(SegformerForSemanticSegmentation, location), 1, IMAGENET_MEAN, IMAGENET_STD)
    model.side = 640 if location.path.endswith("640-640") else 0
    return model


def _draw(pairs, classes, size, target, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    image, labels = pairs[split].load(index, size)
    if labels.max() >= classes:
        raise ValueError(f"{pairs[split].maps[index]} has the class number {labels.max()}; there are {classes} classes")
    image = apply_shift(image, shift, severity, seed, index, IMAGE_SHIFTS)
    return image.to(target), labels.to(target)


def map_condition(phi: ConcatUNet, maps: Tensor) -> Tensor:
    """Return the condition of true label maps (N, H, W), as one-hot beliefs give it: (N, D, H, W), 0 without label."""
    embedded = phi.class_embeddings[maps.clamp(min=0)] * (maps >= 0)[..., None]
    return embedded.movedim(-1, 1)


def recipes(name: str) -> dict[str, Recipe]:
    """Return how to train the latent diffusion model of a data set."""
    classes = len(dense_data.own_classes()) if name == "own-segmentation" else len(colours())
    return {"latent": latent_maps.recipe(name, classes, map_condition)}
