"""ImageNet and its shifted versions at full scale: public classifiers under DiT-XL/2 (paper, Tables 1, 2, 5, 6, 8).

Checkpoints come from the Hugging Face hub, or from a folder in its layout: give the folder's path in place of a
name. Data sets are read from $DTTA_DATA or ~/.cache/dtta/data, in the layout in which they are published
(``dtta.problems.data.imagenet``); ``dtta doctor imagenet`` says what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.transforms.v2 import functional as T

from dtta.core.conditions import ClassMixture
from dtta.core.diffusion import DiT
from dtta.core.problem import Problem
from dtta.problems.corruptions import IMAGE_SHIFTS, apply_shift, check_severity
from dtta.problems.data.folders import open_picture, pixels
from dtta.problems.data.hub import Checkpoint, Need, device, fill, find, need, reach, reach_file, reach_timm, split
from dtta.problems.data.imagenet import FAMILIES, Pictures, class_names, family, missing, read, root, training_pictures
from dtta.problems.networks.wrappers import IMAGENET_MEAN, IMAGENET_STD, Classifier
from dtta.problems.training.weights import WeightsError

NETWORKS = {
    "resnet18": Checkpoint("timm/resnet18.tv_in1k", "bbd144b3e5565108aad885f145491d11bc6ce807", 0.05),
    "resnet50": Checkpoint("timm/resnet50.tv_in1k", "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa", 0.1),
    "convnext-tiny": Checkpoint("timm/convnext_tiny.fb_in1k", "b43a6303c9fcf176d2d707478a128c2c91e93528", 0.11),
    "convnext-large": Checkpoint("timm/convnext_large.fb_in1k", None, 0.8),
    # torchvision publishes it as a pickle alone, and timm has other weights under this name
    "vit-b-32": Checkpoint(
        "torchvision/vit_b_32",
        None,
        0.35,
        how="""mkdir -p vit-b-32 && python -c "from safetensors.torch import save_file; from torchvision.models """
        """import vit_b_32; save_file(vit_b_32(weights='IMAGENET1K_V1').state_dict(), """
        """'vit-b-32/model.safetensors')\"""",
    ),
}
_CONVERT = 'python -c "from diffusers import DiTPipeline as D; D.from_pretrained({0!r}).save_pretrained({1!r})"'
_PARTS = ("transformer", "vae")
DIFFUSIONS = {
    # The main branches hold pickles; a pull request of the hub's bot holds the first as safetensors.
    "dit-xl-2-256": Checkpoint("facebook/DiT-XL-2-256", "refs/pr/1", 3.3, _PARTS),
    "dit-xl-2-512": Checkpoint(
        "facebook/DiT-XL-2-512",
        "101a3d462b22d64c4afdd4d0c8c59a2c0b961b99",
        3.3,
        _PARTS,
        _CONVERT.format("facebook/DiT-XL-2-512", "dit-xl-2-512"),
    ),
}
# The paper's (section 3.2): 5 steps of 180 pairs, 20 in one pass, all of θ and φ. It uses Adam at 1e-5 or SGD at
# 5e-3; the released commands have the former for ResNet and ConvNeXt, the latter for ViT. TENT and CoTTA have what
# their own authors take for ImageNet, other methods their defaults (dtta.methods). Nothing of this was chosen on
# validation images here.
PAPER = dict(steps=5, samples=180, micro_batch=20, adapt_diffusion=True)
ADAM, SGD = dict(optimizer="adam", lr=1e-5), dict(optimizer="sgd", lr=5e-3, momentum=0.9)
TENT, COTTA = dict(optimizer="sgd", lr=2.5e-4), dict(optimizer="sgd", lr=0.01, threshold=0.1, restore=0.001)
RECIPES: dict = {}  # nothing to train: the checkpoints are public
VIT_B_32 = dict(image_size=224, patch_size=32, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072)


@dataclass(frozen=True)
class View:
    """How a picture becomes what the classifier and the diffusion model see: its shorter side brought to `resize`
    (antialiased), the middle square of `crop` pixels. A picture of that size already (ImageNet-C) stays as it is."""

    resize: int
    crop: int
    interpolation: str = "bilinear"

    def __call__(self, picture, border: int = 0) -> Tensor:
        """-> (3, crop, crop) in [0, 1]."""
        x = pixels(picture)
        x = x[:, border : x.shape[1] - border, border : x.shape[2] - border]
        if x.shape[1:] == (self.crop, self.crop):
            return x
        x = T.resize(x, [self.resize], interpolation=T.InterpolationMode(self.interpolation), antialias=True)
        return T.center_crop(x.clamp(0, 1), [self.crop, self.crop])


def problem(network: str | None = None, diffusion: str | None = None, *, name: str = "imagenet") -> Problem:
    """ImageNet's validation images, or a data set with its classes, under a classifier and DiT-XL/2.

    The shifts are common corruptions of the image, made when it is read; those of imagenet-c are the published files.
    Validation images are the first five of each class of ImageNet's training part, where that is there.

    Args:
        network: "resnet18" (the usual one), "resnet50", "convnext-tiny", "convnext-large", "vit-b-32", or the path of
            a folder in timm's layout (or a torchvision ViT's weights). With "+released" at its end pictures are
            brought to 232 pixels, bilinear, and cropped to 224 whatever the network was trained with, as the paper
            states (A.6); without, that holds for the networks from torchvision, and others have their own.
        diffusion: "dit-xl-2-256" (the usual one), "dit-xl-2-512", or the path of a folder in the pipeline's layout.
            With "+released" at its end the class embeddings that are mixed are a copy that stays, as in the
            authors' code, even where φ moves.

    Raises:
        ValueError: unknown names. FileNotFoundError: the data are not there.
        dtta.problems.training.weights.WeightsError: a checkpoint is missing, damaged, or cannot be reached.
    """
    plain, stated = split(network)
    dit, fixed = split(diffusion)
    test = read(name, root(name))
    validation = training_pictures(tuple(test.kept))
    f, view, usual = load_classifier(plain, test.kept)
    phi, where = load_dit(dit), device()
    view = View(232 * view.crop // 224, view.crop) if stated else view
    every = len(test.kept) == 1000
    table = phi.to(where).class_embeddings
    kept = slice(None) if every else torch.as_tensor(test.kept, device=where)
    l = table.detach()[kept].clone() if fixed else lambda: phi.class_embeddings[kept]
    splits = {"test": test} | ({"validation": validation} if validation else {})
    corrupted = name == "imagenet-c"
    return Problem(
        name=name,
        task="classification",
        classes=class_names(test.kept),
        model=f.to(where),
        diffusion=phi,
        condition=ClassMixture(l),
        draw=partial(_draw_corrupted if corrupted else _draw, splits, view, where),
        sizes={part: len(found.paths) for part, found in splits.items()},
        shape=(3, view.crop, view.crop),
        shifts=FAMILIES if corrupted else tuple(IMAGE_SHIFTS),
        metric="accuracy",
        score=partial(_score, test.alike),
        settings={
            "diffusion-tta": PAPER | usual,
            "logits": ADAM | {k: PAPER[k] for k in ("steps", "samples")},
            "tent": TENT,
            "cotta": COTTA,
        },
    )


def needs(name: str, network: str | None, diffusion: str | None) -> tuple[list[Need], Callable[[], object]]:
    """What a problem asks of a machine: checkpoints, and a function that raises where data are missing."""
    asked = [need("network", network, NETWORKS), need("diffusion", diffusion, DIFFUSIONS, _PARTS)]
    return asked, lambda: read(name, root(name))


def load_classifier(network: str | None, kept: list[int]) -> tuple[Classifier, View, dict]:
    """A classifier whose answer is restricted to some classes, what it sees, and its usual optimizer.

    Raises:
        WeightsError: as `problem` does; ValueError: it is no classifier of ImageNet's thousand classes.
    """
    where = find(network, NETWORKS)
    if where.checkpoint is not None and where.checkpoint.how:
        reach_file(where, "model.safetensors")  # its name cannot be reached: says what makes the file
    if where.checkpoint is None and _is_torchvision(where):
        model, view = _vit(where), View(232, 224)
        settings, mean, std = SGD, IMAGENET_MEAN, IMAGENET_STD
        view = View(232 * model.image_size // 224, model.image_size)
    else:
        model = reach_timm(where)
        own = resolve_model_data_config(model)
        mean, std, crop = own["mean"], own["std"], own["input_size"][-1]
        ours = "tv_in1k" in f"{where.path} {(model.pretrained_cfg or {}).get('tag')}"
        view = View(232 * crop // 224, crop) if ours else View(int(crop / own["crop_pct"]), crop, own["interpolation"])
        settings = SGD if "vit" in str(model.pretrained_cfg.get("architecture")) else ADAM
    outputs = model.num_classes if hasattr(model, "num_classes") else model.heads[-1].out_features
    if outputs != 1000:
        raise ValueError(f"{where.path} tells {outputs} classes apart, not ImageNet's thousand")
    return Classifier(model, mean, std, None if len(kept) == 1000 else kept), view, settings


def _is_torchvision(where) -> bool:
    """Whether a folder holds a torchvision ViT: weights with no configuration, or one that names the arguments."""
    try:
        return "architecture" not in json.loads(reach_file(where, "config.json").read_text())
    except WeightsError:
        return True
    except ValueError as error:
        raise WeightsError(f"{where.path}/config.json is damaged ({error}); get it again") from error


def _vit(where) -> nn.Module:
    try:
        arguments = json.loads(reach_file(where, "config.json").read_text())
    except WeightsError:
        arguments = VIT_B_32
    return fill(VisionTransformer(**arguments), reach_file(where, "model.safetensors"), where)


def load_dit(diffusion: str | None = None) -> DiT:
    """A DiT of latents with its VAE, by name or from a folder. Raises as `problem` does."""
    where = find(diffusion, DIFFUSIONS)
    parts = {"transformer": DiTTransformer2DModel, "scheduler": DDPMScheduler, "vae": AutoencoderKL}
    phi = DiT(*(reach(kind, where, part) for part, kind in parts.items()))
    if (found := len(phi.class_embeddings)) != 1000:
        raise WeightsError(f"{where.path} was trained on {found} classes, not on ImageNet's thousand")
    return phi


def _score(alike: dict[int, frozenset[int]], output: Tensor, label: Tensor) -> float:
    """Whether the strongest class is the picture's, or as right as that (ObjectNet)."""
    answer, label = output.argmax(dim=1).item(), label.item()
    return float(answer in alike.get(label, {label}))


def _draw(splits: dict[str, Pictures], view, where, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    found = splits[split]
    image = view(open_picture(found.paths[index]), found.border)
    image = apply_shift(image, shift, severity, seed, index, IMAGE_SHIFTS)
    return image.to(where), torch.tensor(found.labels[index])


def _draw_corrupted(splits, view, where, split, index, shift, severity, seed) -> tuple[Tensor, Tensor]:
    """A file of ImageNet-C; clean, and for validation: the original, under the like corruption if there is one."""
    if split != "test":
        return _draw(splits, view, where, split, index, shift, severity, seed)
    check_severity(shift, severity, FAMILIES)
    path = splits["test"].paths[index]
    folder = root("imagenet") if shift == "clean" else family(root("imagenet-c"), shift, int(severity))
    original = folder / path.parent.name / path.name
    if not original.is_file():
        raise missing("imagenet" if shift == "clean" else "imagenet-c", f"{path.name} is not in it", original.parent)
    return view(open_picture(original)).to(where), torch.tensor(splits["test"].labels[index])
