"""The models of the digits problem, without weights: three classifiers, two families of diffusion models."""

from __future__ import annotations

import timm
from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dtta.core.diffusion import ClassUNet, DiT
from dtta.problems.digits.data import SIZE
from dtta.problems.networks.mae import MaskedAutoencoder


class Classifier(nn.Module):
    """A timm network with its preprocessing; lora_targets: pattern of layer names, see ``dtta.core.lora.add_lora``."""

    def __init__(self, network: nn.Module, size: int, lora_targets: str, mean: float = 0.5, std: float = 0.5):
        super().__init__()
        self.network, self.size, self.mean, self.std = network, size, mean, std
        self.lora_targets = lora_targets

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1] -> logits (N, L)."""
        if image.shape[-2:] != (self.size, self.size):
            image = F.interpolate(image, (self.size, self.size), mode="bilinear")
        return self.network((image - self.mean) / self.std)


def resnet() -> Classifier:
    """A ResNet with batch norm (0.34 M parameters), on the image enlarged to 32 x 32."""
    network = timm.create_model("resnet10t", in_chans=1, num_classes=10, channels=(16, 32, 64, 128))
    return Classifier(network, size=32, lora_targets=r"network\.layer\d\.\d\.conv\d")


def vit() -> Classifier:
    """A vision transformer with layer norm (0.20 M parameters), on 2 x 2 patches."""
    shape = dict(img_size=SIZE, patch_size=2, embed_dim=64, depth=4, num_heads=4)
    network = timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=10, **shape)
    return Classifier(network, size=SIZE, lora_targets=r"network\.blocks\.\d\.attn\.qkv")


def mae() -> MaskedAutoencoder:
    """A masked autoencoder with a classification head (0.18 M parameters), on 2 x 2 patches."""
    return MaskedAutoencoder(size=SIZE, patch=2, channels=1, classes=10, width=64, depth=4, heads=4)


def scheduler() -> DDPMScheduler:
    """Return a cosine schedule of 1000 steps; at 8 x 8 pixels, half the steps of a linear one would be pure noise."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


def unet() -> ClassUNet:
    """A class-conditional UNet (1.5 M parameters)."""
    network = UNet2DModel(
        sample_size=SIZE, in_channels=1, out_channels=1, num_class_embeds=10,
        block_out_channels=(48, 96), layers_per_block=1, norm_num_groups=16, attention_head_dim=32,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return ClassUNet(network, scheduler())


def dit() -> DiT:
    """A diffusion transformer (1.7 M parameters) on 2 x 2 patches, initialised as DiT's authors do."""
    network = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=32, num_layers=6, sample_size=SIZE, patch_size=2,
        in_channels=1, out_channels=1, num_embeds_ada_norm=10,
    )  # fmt: skip
    for block in network.transformer_blocks:  # each block starts as the identity
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
    nn.init.zeros_(network.proj_out_2.weight)
    nn.init.zeros_(network.proj_out_2.bias)
    return DiT(network, scheduler())


NETWORKS = {"resnet": resnet, "vit": vit, "mae": mae}  # the first of each is the default
DIFFUSIONS = {"unet": unet, "dit": dit, "unet-hard": unet, "dit-hard": dit}
