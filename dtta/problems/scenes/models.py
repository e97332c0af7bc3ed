"""The task networks and diffusion models of the scenes: library classes in small configurations."""

from __future__ import annotations

import math

import timm
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    GLPNConfig,
    GLPNForDepthEstimation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from dtta.diffusion import ConcatUNet
from dtta.problems.scenes.data import NEAR, SIZE
from dtta.problems.scenes.world import CLASSES, FAR

# --- task networks f ----------------------------------------------------------------------------------


class Segmenter(nn.Module):
    """A ``transformers`` segmentation network with its own preprocessing: image in [0, 1] -> logits of its size."""

    def __init__(self, network: nn.Module, enlarge: int = 1, mean: float = 0.5, std: float = 0.25):
        super().__init__()
        self.network, self.enlarge, self.mean, self.std = network, enlarge, mean, std

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> logits (N, L, H, W)."""
        x = (image - self.mean) / self.std
        if self.enlarge > 1:
            x = F.interpolate(x, scale_factor=self.enlarge, mode="bilinear")
        logits = self.network(pixel_values=x).logits
        return F.interpolate(logits, image.shape[-2:], mode="bilinear")


def segformer() -> Segmenter:
    """A SegFormer (0.6 M parameters) on the image enlarged to 64 x 64; answers at 32 x 32."""
    config = SegformerConfig(
        num_labels=len(CLASSES), depths=[2, 2, 2], num_encoder_blocks=3, hidden_sizes=[32, 64, 96],
        patch_sizes=[5, 3, 3], strides=[2, 2, 2], sr_ratios=[4, 2, 1], num_attention_heads=[1, 2, 3],
        mlp_ratios=[3, 3, 3], decoder_hidden_size=64, drop_path_rate=0.0, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0,
    )  # fmt: skip
    return Segmenter(SegformerForSemanticSegmentation(config), enlarge=2)


def to_depth(u: Tensor, near: float = NEAR, far: float = FAR) -> Tensor:
    """Any number -> a depth between near and far, even steps in log depth where u is near zero."""
    return torch.exp(math.log(near) + u.sigmoid() * math.log(far / near))


class DenseDepth(nn.Module):
    """Encoder-decoder in DenseDepth's shape (Alhashim & Wonka, arXiv 1812.11941, section 3.1).

    Each step of the decoder doubles the size (bilinear), joins the encoder's map of that size, and
    applies two 3 x 3 convolutions with leaky ReLU.

    Args:
        encoder: a timm network made with ``features_only=True``.
        width: channels at the decoder's start, halved at each step.
        near, far: the range of depths, in scene units.
    """

    def __init__(self, encoder: nn.Module, width: int, near: float = NEAR, far: float = FAR, mean=0.5, std=0.25):
        super().__init__()
        self.encoder, self.near, self.far, self.mean, self.std = encoder, near, far, mean, std
        *skips, deepest = encoder.feature_info.channels()
        self.start = nn.Conv2d(deepest, width, 1)
        self.up = nn.ModuleList()
        for skip in [*reversed(skips), 3]:
            half = max(width // 2, 16)
            self.up.append(
                nn.Sequential(
                    nn.Conv2d(width + skip, half, 3, padding=1),
                    nn.LeakyReLU(0.2),
                    nn.Conv2d(half, half, 3, padding=1),
                    nn.LeakyReLU(0.2),
                )
            )
            width = half
        self.end = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> depth (N, 1, H, W) in scene units."""
        x = (image - self.mean) / self.std
        *skips, deepest = self.encoder(x)
        y = self.start(deepest)
        for up, skip in zip(self.up, [*reversed(skips), x], strict=True):
            y = F.interpolate(y, skip.shape[-2:], mode="bilinear")
            y = up(torch.cat([y, skip], dim=1))
        return to_depth(self.end(y), self.near, self.far)


def densedepth() -> DenseDepth:
    """DenseDepth's decoder on a small ResNet with batch norm (0.7 M parameters)."""
    encoder = timm.create_model("resnet10t", features_only=True, channels=(24, 48, 96, 128), pretrained=False)
    return DenseDepth(encoder, width=96)


class Glpn(nn.Module):
    """``transformers`` GLPN with its own preprocessing: image in [0, 1] -> depth of its size, log spaced."""

    def __init__(self, network: nn.Module, enlarge: int = 1, near=NEAR, far=FAR, mean: float = 0.5, std: float = 0.25):
        super().__init__()
        self.network, self.enlarge, self.near, self.far = network, enlarge, near, far
        self.mean, self.std = mean, std

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> depth (N, 1, H, W) in scene units."""
        x = (image - self.mean) / self.std
        if self.enlarge > 1:
            x = F.interpolate(x, scale_factor=self.enlarge, mode="bilinear")
        u = self.network(pixel_values=x).predicted_depth[:, None]  # in (0, 1): max_depth is 1
        u = F.interpolate(u, image.shape[-2:], mode="bilinear")
        return torch.exp(math.log(self.near) + u * math.log(self.far / self.near))


def glpn() -> Glpn:
    """A GLPN (0.6 M parameters), a transformer with layer norm."""
    config = GLPNConfig(
        num_encoder_blocks=4, depths=[2, 2, 2, 2], hidden_sizes=[24, 48, 72, 96], sr_ratios=[4, 2, 1, 1],
        patch_sizes=[5, 3, 3, 3], strides=[2, 2, 2, 2], num_attention_heads=[1, 2, 3, 4], mlp_ratios=[3, 3, 3, 3],
        decoder_hidden_size=32, max_depth=1, drop_path_rate=0.0, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return Glpn(GLPNForDepthEstimation(config))


# --- diffusion models φ -------------------------------------------------------------------------------

EMBEDDING = 8  # D, numbers in which a class is told to the diffusion model
PATCH = 2


def scheduler() -> DDPMScheduler:
    """1000 steps, cosine."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


def _unet(condition_channels: int, classes: int = 0) -> ConcatUNet:
    network = UNet2DModel(
        sample_size=SIZE // PATCH, in_channels=(3 + condition_channels) * PATCH**2, out_channels=3 * PATCH**2,
        block_out_channels=(48, 96, 96), layers_per_block=1, norm_num_groups=16, attention_head_dim=32,
        down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3,
    )  # fmt: skip
    return ConcatUNet(network, scheduler(), patch=PATCH, classes=classes, dimension=condition_channels)


def unet_segmentation() -> ConcatUNet:
    """A UNet that sees a map of mixed class embeddings beside the noisy image, in 2 x 2 patches."""
    return _unet(EMBEDDING, len(CLASSES))


def unet_depth() -> ConcatUNet:
    """A UNet that sees a depth map beside the noisy image, in 2 x 2 patches."""
    return _unet(1)
