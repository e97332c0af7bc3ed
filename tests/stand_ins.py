"""Stand-ins for what is public: tiny random checkpoints in the hub's layout, generated data in the published layouts.

Each function writes into a folder and returns it.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import numpy as np
import timm
import tiny
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, PNDMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import VisionTransformer

from dtta.problems.imagenet_data import LAYOUTS, kept_classes, synsets

SIZE = 32  # of the tiny diffusion models' pictures


def picture(number: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """Random pixels, the same for the same number."""
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


# --- checkpoints --------------------------------------------------------------------------------------


def vae(levels: int = 2) -> AutoencoderKL:
    """A VAE that makes pictures smaller by 2^(levels - 1)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(
            block_out_channels=(8, 16, 16, 16)[:levels], norm_num_groups=4, latent_channels=4, sample_size=SIZE,
            scaling_factor=0.18215, down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )  # fmt: skip


def clip(folder: Path) -> Path:
    """A CLIP and its tokenizer."""
    words = copy.deepcopy(tiny.tokenizer())
    words.model_max_length = 77
    tiny.clip_model(length=77).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def stable_diffusion(folder: Path, levels: int = 2) -> Path:
    """A Stable Diffusion pipeline; its VAE has so many levels."""
    words = copy.deepcopy(tiny.tokenizer())
    words.model_max_length = 77
    schedule = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    side = SIZE // 2 ** (levels - 1)
    StableDiffusionPipeline(
        vae=vae(levels), text_encoder=tiny.clip_model(1, 77).text_model, tokenizer=words,
        unet=tiny.text_unet(sample_size=side, in_channels=4, out_channels=4).network,
        scheduler=PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **schedule),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def dit(folder: Path, classes: int = 1000) -> Path:
    """A DiT pipeline that learnt its variance, with a VAE."""
    network = tiny.dit_network(sample_size=SIZE // 2, in_channels=4, out_channels=8, num_embeds_ada_norm=classes)
    scheduler = DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False)
    DiTPipeline(network, vae(), scheduler).save_pretrained(folder)
    return folder


def classifier(folder: Path, classes: int = 1000) -> Path:
    """A ResNet of ImageNet's classes in timm's layout, for pictures of 32 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = dict(channels=[8, 8, 16, 16])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("resnet18", num_classes=classes, **arguments)
        network.fc.weight.data.normal_(std=0.5)
    own = dict(tag="tv_in1k", input_size=[3, 32, 32], crop_pct=0.875, interpolation="bilinear", first_conv="conv1")
    own |= dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], classifier="fc", num_classes=classes)
    about = dict(architecture="resnet18", num_classes=classes, model_args=arguments, pretrained_cfg=own)
    (folder / "config.json").write_text(json.dumps(about))
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def vision_transformer(folder: Path) -> Path:
    """A torchvision ViT of ImageNet's classes, for pictures of 32 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = dict(image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VisionTransformer(**shape)
        network.heads.head.weight.data.normal_(std=0.5)
    (folder / "config.json").write_text(json.dumps(shape))
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


# --- data ---------------------------------------------------------------------------------------------


def imagenet(root: Path) -> Path:
    """ImageNet's validation part and all data sets with its classes, one picture of each class."""
    for name, layout in LAYOUTS.items():
        if name in ("imagenet-c", "objectnet"):
            continue
        if name in ("imagenet-s", "imagenet-sketch"):  # the same files under another name
            (root / layout.folders[0]).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(root / "val", root / layout.folders[0])
            continue
        for i in kept_classes(name):
            folder = root / layout.folders[0] / (str(i) if layout.numbered else synsets()[i])
            folder.mkdir(parents=True)
            picture(i, (12, 10)).save(folder / f"{i}.png")
    (root / "train").mkdir()
    for synset in synsets():
        os.symlink(root / "val" / synset, root / "train" / synset)
    for place in ("imagenet-c/noise/gaussian_noise", "imagenet-c/contrast"):
        (root / place).mkdir(parents=True)
        os.symlink(root / "val", root / place / "5")
    return root


def objectnet(root: Path) -> Path:
    """Four things, three of which ImageNet has too; one of these is two of its classes."""
    folder = root / "objectnet-1.0"
    (folder / "mappings").mkdir(parents=True)
    lines = [f"name {k}" for k in range(1000)]  # of number k in the devkit's own order
    own = {str(index): (index * 7) % 1000 for index in range(1000)}  # ImageNet's number -> the devkit's

    def named(index: int) -> str:
        return lines[own[str(index)]]

    things = {"alarm_clock": "Alarm clock", "bowl": "Bowl", "mug": "Mug", "nail": "Nail"}
    to = {"Alarm clock": f"{named(409)}; {named(530)}", "Bowl": named(659), "Mug": named(504)}
    for name, content in {
        "folder_to_objectnet_label.json": things,
        "objectnet_to_imagenet_1k.json": to,
        "pytorch_to_imagenet_2012_id.json": own,
    }.items():
        (folder / "mappings" / name).write_text(json.dumps(content))
    (folder / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(lines))
    for k, thing in enumerate(things):
        (folder / "images" / thing).mkdir(parents=True)
        for n in range(2):
            framed = Image.new("RGB", (44, 40), (255, 0, 0))
            framed.paste(picture(10 * k + n), (2, 2))
            framed.save(folder / "images" / thing / f"{n}.png")
    return root
