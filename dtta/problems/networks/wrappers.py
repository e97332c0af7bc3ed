"""Task networks that include their preprocessing, so that they take the same image in [0, 1] as the diffusion model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtta.core.adapter import take_logits
from dtta.core.conditions import one_channel

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Normalised(nn.Module):
    """Normalises with the mean and standard deviation of the training data: a number, or one for each channel."""

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]):
        super().__init__()
        for name, value in {"mean": mean, "std": std}.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def normalised(self, image: Tensor, enlarge: float = 1) -> Tensor:
        """Return the normalised image, enlarged by a factor."""
        x = (image - self.mean) / self.std
        return x if enlarge == 1 else F.interpolate(x, [round(s * enlarge) for s in x.shape[-2:]], mode="bilinear")


class Classifier(_Normalised):
    """A classifier on images in [0, 1] that answers the classes `kept`, indices of the network's; None: all."""

    # The convolutions of ResNets; the linear layers of the blocks of ConvNeXts and ViTs (torchvision's: only the MLP)
    lora_targets = r"network\.(.*\.)?(layer\d\.\d+\.conv\d|mlp\.(fc\d|0|3)|attn\.qkv|block\.[35])"

    def __init__(self, network: nn.Module, mean=IMAGENET_MEAN, std=IMAGENET_STD, kept: Sequence[int] | None = None):
        super().__init__(mean, std)
        self.network = network
        self.register_buffer("kept", None if kept is None else torch.as_tensor(kept), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> logits (N, L)."""
        logits = take_logits(self.network, None, self.network(self.normalised(image)))
        return logits if self.kept is None else logits[:, self.kept]


class Segmenter(_Normalised):
    """A segmentation network, such as one of ``transformers``: image in [0, 1] -> logits of the image's size."""

    def __init__(self, network: nn.Module, enlarge: float = 1, mean=0.5, std=0.25):
        super().__init__(mean, std)
        self.network, self.enlarge = network, enlarge

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> logits (N, L, H, W)."""
        logits = take_logits(self.network, None, self.network(self.normalised(image, self.enlarge)))
        return F.interpolate(logits, image.shape[-2:], mode="bilinear")


def to_depth(u: Tensor, near: float, far: float) -> Tensor:
    """Map [0, 1] to depths from near to far, linear in log depth."""
    return torch.exp(math.log(near) + u * math.log(far / near))


class DenseDepth(_Normalised):
    """An encoder-decoder with DenseDepth's architecture (Alhashim & Wonka, arXiv 1812.11941, section 3.1).

    Each step of the decoder doubles the size (bilinear), concatenates the encoder's map of that size, and applies two
    3 x 3 convolutions with leaky ReLU.

    Args:
        encoder: a timm network made with ``features_only=True``.
        width: channels at the start of the decoder, halved at each step.
        near, far: the range of depths, in the unit of the data.
        whole: whether the last step concatenates the image itself. False, as in the original: the decoder ends at half
            the image's size, and its output is enlarged.
    """

    def __init__(self, encoder: nn.Module, width: int, near: float, far: float, mean=0.5, std=0.25, whole: bool = True):
        super().__init__(mean, std)
        self.encoder, self.near, self.far, self.whole = encoder, near, far, whole
        *skips, deepest = encoder.feature_info.channels()
        self.start = nn.Conv2d(deepest, width, 1)
        self.up = nn.ModuleList()
        for skip in [*reversed(skips), *([3] if whole else [])]:
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
        """(N, 3, H, W) in [0, 1] -> depth (N, 1, H, W) in the unit of the data."""
        x = self.normalised(image)
        *skips, deepest = self.encoder(x)
        y = self.start(deepest)
        for up, skip in zip(self.up, [*reversed(skips), *([x] if self.whole else [])], strict=True):
            y = F.interpolate(y, skip.shape[-2:], mode="bilinear")
            y = up(torch.cat([y, skip], dim=1))
        u = self.end(y)
        u = u if self.whole else F.interpolate(u, image.shape[-2:], mode="bilinear")
        return to_depth(u.sigmoid(), self.near, self.far)


class Glpn(_Normalised):
    """A GLPN of ``transformers``, or another depth network: image in [0, 1] -> depth of the image's size.

    Args:
        enlarge: factor by which the image is enlarged before the network.
        near, far: the range of depths, in the unit of the data.
        metres: whether the network predicts depth in the unit of the data, as the public checkpoints do; else a number
            in (0, 1) that is linear in log depth.
    """

    def __init__(
        self,
        network: nn.Module,
        enlarge: float = 1,
        *,
        near: float,
        far: float,
        mean=0.5,
        std=0.25,
        metres: bool = False,
    ):
        super().__init__(mean, std)
        self.network, self.enlarge, self.near, self.far, self.metres = network, enlarge, near, far, metres

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> depth (N, 1, H, W) in the unit of the data."""
        u = take_logits(self.network, None, self.network(self.normalised(image, self.enlarge)))
        u = F.interpolate(one_channel(u), image.shape[-2:], mode="bilinear")
        return u.clamp(min=self.near) if self.metres else to_depth(u, self.near, self.far)
