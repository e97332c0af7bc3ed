"""Random views of an image, for the methods that compare a network's answers to several of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2 as T


def crops(image: Tensor, count: int, generator: torch.Generator, area: float = 0.5, mirror: bool = True) -> Tensor:
    """`count` views of each image (N, C, H, W), image by image: itself, then random crops, half of them mirrored.

    Crops have the picture's proportions and show at least `area` of it. TPT's are those of torchvision's
    ``RandomResizedCrop``: from 0.08 of the picture on, sides in proportions of 3:4 to 4:3.
    """
    size, device = (len(image), count), generator.device
    u = torch.rand(4, *size, generator=generator, device=device).to(image.device)
    side = (area + (1 - area) * u[0]).sqrt()
    flip = torch.where((u[3] < 0.5) & mirror, -1.0, 1.0)
    x, y = (2 * u[1] - 1) * (1 - side), (2 * u[2] - 1) * (1 - side)
    zero = torch.zeros_like(side)
    matrix = torch.stack([side * flip, zero, x, zero, side, y], dim=2)
    matrix[:, 0] = torch.eye(2, 3, device=image.device).flatten()
    repeated = image.repeat_interleave(count, dim=0)
    grid = F.affine_grid(matrix.view(-1, 2, 3), list(repeated.shape), align_corners=False)
    return F.grid_sample(repeated, grid, padding_mode="border", align_corners=False).clamp(0, 1)


def augmix(image: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` views of each image by AugMix (Hendrycks et al., ICLR 2020, arXiv 1912.02781); the first is the image.

    Operations that look like corruptions are left out. MEMO's authors crop (by ``RandomResizedCrop``) and mirror first,
    and have no plain image among their views. Their strength is level 1: a uniform share, 0.1 to 1, of a tenth of the
    range; torchvision draws from 0, 1/9, ..., (severity - 1)/9 of it, so that severity 2 has the same mean.
    """
    mix = T.AugMix(severity=2, all_ops=False)
    steps = [T.ToDtype(torch.uint8, scale=True), mix, T.ToDtype(torch.float32, scale=True)]
    return _drawn(T.Compose(steps), image, count, generator, first=True)


def jittered(image: Tensor, count: int, generator: torch.Generator, mirror: bool = True) -> Tensor:
    """`count` views of each image after CoTTA's: colours, gamma, a small affine move, blur, mirroring, noise.

    Its authors' code has the same constants and order, but one draw for the whole batch, where each image has its own
    here; gamma among the colours in random order, not after them; and 5 x 5 blur also below 32 pixels.
    """
    H, W = image.shape[-2:]
    kernel = 5 if W >= 32 else 3
    steps = [
        T.ColorJitter(0.4, 0.3, 0.5, 0.06) if image.shape[1] == 3 else T.ColorJitter(0.4, 0.3),
        T.Lambda(lambda x: x.clamp(min=1e-8) ** torch.empty(()).uniform_(0.7, 1.3).item()),
        T.Pad([W // 2, H // 2], padding_mode="edge"),  # what moves in from beyond the edge is not black
        T.RandomAffine(15, translate=(1 / 16, 1 / 16), scale=(0.9, 1.1), interpolation=T.InterpolationMode.BILINEAR),
        T.GaussianBlur(kernel, (0.001, 0.5)),
        T.CenterCrop([H, W]),
        T.RandomHorizontalFlip(0.5 if mirror else 0.0),
        T.GaussianNoise(sigma=0.005),
    ]
    return _drawn(T.Compose(steps), image, count, generator)


def _drawn(
    transform: Callable[[Tensor], Tensor], image: Tensor, count: int, generator: torch.Generator, first: bool = False
) -> Tensor:
    """Views (N count, C, H, W), image by image. The library draws from torch's own randomness, which is put back."""
    seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
    with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
        torch.manual_seed(seed)
        views = [x if first and k == 0 else transform(x) for x in image for k in range(count)]
    return torch.stack(views).clamp(0, 1)
