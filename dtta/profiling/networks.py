"""Networks of published sizes with random weights, which suffice for measuring speed. Nothing is downloaded.

The configurations are those of the checkpoints: ``facebook/DiT-XL-2-256`` and ``-512``, the UNet of Stable Diffusion
1.5, the autoencoder of both, and as task networks the paper's ConvNeXt-Tiny and ViT-B/32; "toy": for a CPU.
"""

from __future__ import annotations

from functools import partial

import timm
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dtta.core.conditions import ClassMixture
from dtta.core.diffusion import Diffusion, DiT, TextUNet
from dtta.core.problem import Problem
from dtta.problems.device import device

_VAE = dict(
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, norm_num_groups=32,
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
)  # fmt: skip
_TOY_VAE = _VAE | dict(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
_DIT = dict(
    num_attention_heads=16, attention_head_dim=72, num_layers=28, patch_size=2, in_channels=4, out_channels=8,
    num_embeds_ada_norm=1000,
)  # fmt: skip
_SD = dict(
    sample_size=64, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
    cross_attention_dim=768, attention_head_dim=8,
)  # fmt: skip
_TOY = dict(num_attention_heads=2, attention_head_dim=8, num_layers=2, num_embeds_ada_norm=10)
_TOY_SD = dict(
    sample_size=8, block_out_channels=(16, 16), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
    attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)  # fmt: skip

# name -> the diffusion network, the autoencoder, the task network, how many classes
# Each group of a group norm has several numbers, also in the toys: one number alone would be normalised to zero.
NETWORKS: dict[str, tuple[dict, dict, str, int]] = {
    "dit-256": (_DIT | dict(sample_size=32), _VAE, "convnext_tiny", 1000),
    "dit-512": (_DIT | dict(sample_size=64), _VAE, "convnext_tiny", 1000),
    "sd-512": (_SD, _VAE, "vit_base_patch32_clip_224", 101),
    "dit-toy": (_DIT | _TOY | dict(sample_size=8), _TOY_VAE, "test_resnet", 10),
    "sd-toy": (_SD | _TOY_SD, _TOY_VAE, "test_resnet", 10),
}
TOKENS = 77  # of a sentence, in Stable Diffusion


def random_problem(name: str, seed: int = 0) -> Problem:
    """Return a problem with random weights and one image, on a GPU if there is one. Raises ValueError: unknown name."""
    if name not in NETWORKS:
        raise ValueError(f"unknown networks {name!r}; choose from {', '.join(NETWORKS)}")
    shape, autoencoder, classifier, classes = NETWORKS[name]
    target = device()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        diffusion = _diffusion(name, shape, AutoencoderKL(**autoencoder)).to(target)
        model = timm.create_model(classifier, pretrained=False, num_classes=classes).to(target)
        if name.startswith("sd"):
            width = shape["cross_attention_dim"]
            # the tokens of a sentence share a component, or attention would average the class out
            embeddings = (torch.randn(classes, 1, width) + torch.randn(classes, TOKENS, width) / 2).to(target)
        else:
            embeddings = None  # the diffusion model's own
    condition = ClassMixture(lambda: diffusion.class_embeddings if embeddings is None else embeddings)
    side = 224
    return Problem(
        name=name,
        task="classification",
        classes=tuple(map(str, range(classes))),
        model=model.eval(),
        diffusion=diffusion,
        condition=condition,
        draw=partial(_draw, side=side, device=target),
        sizes={"test": 1},
        shape=(3, side, side),
        shifts=("clean",),
        metric="accuracy",
        score=lambda output, label: float(output.argmax(dim=1).item() == label.item()),
    )


def operations(name: str, joint: bool = False) -> float:
    """Return the floating-point operations of one evaluation of the diffusion model and its gradient at the condition.

    Counted on meta tensors, without GPU or memory; a multiply-add counts as two. `joint`: the gradient at φ too.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown networks {name!r}; choose from {', '.join(NETWORKS)}")
    shape, autoencoder, _, _ = NETWORKS[name]
    with torch.device("meta"):
        # `to`: transformers patches torch.linspace while it loads a model; a stopped thread leaves it patched
        diffusion = _diffusion(name, shape, AutoencoderKL(**autoencoder)).to("meta")
        diffusion.network.requires_grad_(joint)
        z0 = torch.randn(1, shape["in_channels"], shape["sample_size"], shape["sample_size"])
        if name.startswith("dit"):
            c = torch.randn(1, shape["num_attention_heads"] * shape["attention_head_dim"], requires_grad=True)
        else:
            c = torch.randn(1, TOKENS, shape["cross_attention_dim"], requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            diffusion.loss(z0, torch.zeros(1, dtype=torch.long), torch.randn_like(z0), c).sum().backward()
    return counter.get_total_flops()


def _diffusion(name: str, shape: dict, vae: AutoencoderKL) -> Diffusion:
    if name.startswith("dit"):
        return DiT(DiTTransformer2DModel(**shape), DDPMScheduler(beta_schedule="linear"), vae)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return TextUNet(UNet2DConditionModel(**shape), scheduler, vae)


def _draw(split, index, shift, severity, seed, side, device) -> tuple[Tensor, Tensor]:
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))
    return image.to(device), torch.tensor(0)
