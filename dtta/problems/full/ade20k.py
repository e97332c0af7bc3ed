"""Segmentation at full scale: SegFormer on ADE20K, or on images and label maps of your own (paper, Table 4).

The diffusion model is Stable Diffusion 1.5 with the ControlNet trained on ADE20K's colours: each pixel of its
condition is the mean of the class colours, weighted by the belief. Its parameters are not adapted. The alternative,
as in the paper, is a latent diffusion model that is given a map of mixed class embeddings, concatenated with the
noisy latent. The paper's was never released; ``dtta train ade20k`` trains one (``dtta.problems.full.latent_maps``).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from transformers import SegformerForSemanticSegmentation

from dtta.core.conditions import PixelMixture
from dtta.core.diffusion import ConcatUNet
from dtta.core.problem import Problem
from dtta.problems.corruptions import IMAGE_SHIFTS, apply_shift
from dtta.problems.data import dense as dense_data
from dtta.problems.data import hub
from dtta.problems.full import latent_maps
from dtta.problems.full.stable_diffusion import controlled_requirements, load_controlled
from dtta.problems.metrics import class_counts, segmentation_metrics
from dtta.problems.networks.wrappers import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from dtta.problems.training.recipes import Recipe

_COMMITS = {0: "489d5cd81a0b59fab9b7ea758d3548ebe99677da", 5: "739f5d4692954e4a185eac280dec1ba5a7d52f1d"}
_GIGABYTES = (0.02, 0.06, 0.11, 0.19, 0.26, 0.34)
NETWORKS = {
    f"segformer-b{k}": hub.Checkpoint(
        f"nvidia/segformer-b{k}-finetuned-ade-{'640-640' if k == 5 else '512-512'}", _COMMITS.get(k), _GIGABYTES[k]
    )
    for k in range(6)
}
DIFFUSIONS = {"controlnet-seg": hub.Checkpoint("lllyasviel/control_v11p_sd15_seg", None, 1.45)}
# The paper states nothing for the ControlNet; for its own models AdamW at 8e-5 (stated elsewhere by its authors), and φ
# is adapted. Steps and samples are those of its other tasks. None of these were chosen on validation images here.
SETTINGS: dict[str, dict] = {
    "diffusion-tta": dict(optimizer="adamw", lr=8e-5, steps=5, samples=180, micro_batch=4),
}
# The colours of ADE20K's 150 classes (color150 of the scene parsing benchmark), on which the ControlNet was trained.
COLOURS = """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33
    ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
    08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff
    eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
    0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad
    0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
    00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa
    8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
    ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff
    00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""
RECIPES: dict = {}  # no shipped models; `recipes` returns what can be trained
PROMPT = ""  # Stable Diffusion was trained on empty prompts too


def colours() -> Tensor:
    """Return the colours of ADE20K's classes, (150, 3) in [0, 1]."""
    return torch.tensor([list(bytes.fromhex(colour)) for colour in COLOURS.split()]) / 255


def problem(network: str | None = None, diffusion: str | None = None, *, name: str = "ade20k") -> Problem:
    """Return segmentation of ADE20K's validation part into 150 classes ("ade20k"), or of your own data
    ("own-segmentation").

    Images are centre squares of the diffusion model's size. Validation images are the first of the training part.

    Args:
        network: "segformer-b0" (default) to "segformer-b5", or the path of a folder with a
            ``SegformerForSemanticSegmentation``; for your own data, a folder.
        diffusion: "controlnet-seg" (ADE20K's default), "latent" (trained by ``dtta train``; the default for your own
            data), or the path of a folder in the layout of a ``StableDiffusionControlNetPipeline``.

    Raises:
        ValueError: unknown names, or a network with other classes. FileNotFoundError: the data are missing.
        dtta.problems.training.weights.WeightsError: a checkpoint is missing or damaged, or cannot be downloaded.
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
    phi = load_diffusion(diffusion, name, len(classes))
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
        settings={m: s | dict(adapt_diffusion=isinstance(phi, ConcatUNet)) for m, s in SETTINGS.items()},
    )


def requirements(name: str, network: str | None, diffusion: str | None) -> hub.Requirements:
    """Return the checkpoints that a problem needs, and a function that raises FileNotFoundError if data are missing."""
    latent = latent_maps.is_chosen(name, diffusion)
    phi = latent_maps.requirements(name) if latent else controlled_requirements(diffusion, DIFFUSIONS)
    return [hub.require("network", network, NETWORKS), *phi], lambda: dense_data.read(name)


def load_segformer(network: str | None = None) -> Segmenter:
    """Return a SegFormer by name or from a folder; its ``side``: size of the images that it was trained on."""
    location = hub.locate(network, NETWORKS)
    model = Segmenter(hub.load_part(SegformerForSemanticSegmentation, location), 1, IMAGENET_MEAN, IMAGENET_STD)
    model.side = 640 if location.path.endswith("640-640") else 0
    return model


def load_diffusion(diffusion: str | None, name: str, classes: int) -> nn.Module:
    """Return Stable Diffusion with a ControlNet, or the trained latent diffusion model."""
    if latent_maps.is_chosen(name, diffusion):
        return latent_maps.load(name, classes)
    return load_controlled(diffusion, DIFFUSIONS, PROMPT, colours()[:classes])


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
