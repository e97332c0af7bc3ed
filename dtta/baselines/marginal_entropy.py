"""One answer for all views: TPT (Shu et al., NeurIPS 2022, arXiv 2209.07511) and MEMO (arXiv 2110.09506)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dtta.baselines.self_training import SelfTraining
from dtta.baselines.tent import entropy


class MarginalEntropy(SelfTraining):
    """Goes downhill on the entropy of the mean belief over random views of the image.

    H(p̄), p̄ the mean of softmax f(x_v) over the views whose own entropy is among the lowest.
    TPT moves the words of the prompt, one step of AdamW at 5e-3, 64 views, the surest tenth; MEMO moves all of θ
    and hears all views.

    Args:
        views: random crops, mirrored by chance; the first is the image itself.
        keep: share of the views that are heard, the surest ones.
        area: the smallest share of the picture that a crop shows.
        The rest: see ``SelfTraining``.
    """

    def __init__(self, model, optimizer, steps=1, episodic=True, views: int = 64, keep: float = 0.1, area: float = 0.5):
        super().__init__(model, optimizer, steps, episodic)
        if not isinstance(views, int) or views < 2 or not 0 < keep <= 1 or not 0 < area <= 1:
            raise ValueError(f"views ({views}) must be 2 or more, keep ({keep}) and area ({area}) in (0, 1]")
        self.views, self.keep, self.area = views, keep, area

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.model(random_views(image, self.views, self.area, generator))  # (N V, L)
        logits = logits.float().unflatten(0, (len(image), self.views))
        heard = max(1, math.floor(self.keep * self.views))
        surest = entropy(logits.movedim(2, 1)).argsort(dim=1)[:, :heard]  # (N, heard)
        belief = logits.softmax(dim=2).gather(1, surest[:, :, None].expand(-1, -1, logits.shape[2])).mean(dim=1)
        return entropy(belief.clamp(min=1e-12).log()).mean()


def random_views(image: Tensor, count: int, area: float, generator: torch.Generator) -> Tensor:
    """`count` views of each image (N, C, H, W), image by image: itself, then random crops, half of them mirrored."""
    size, device = (len(image), count), generator.device
    u = torch.rand(4, *size, generator=generator, device=device).to(image.device)
    side = (area + (1 - area) * u[0]).sqrt()
    mirror = torch.where(u[3] < 0.5, -1.0, 1.0)
    x, y = (2 * u[1] - 1) * (1 - side), (2 * u[2] - 1) * (1 - side)
    zero = torch.zeros_like(side)
    matrix = torch.stack([side * mirror, zero, x, zero, side, y], dim=2)
    matrix[:, 0] = torch.eye(2, 3, device=image.device).flatten()
    repeated = image.repeat_interleave(count, dim=0)
    grid = F.affine_grid(matrix.view(-1, 2, 3), list(repeated.shape), align_corners=False)
    return F.grid_sample(repeated, grid, padding_mode="border", align_corners=False).clamp(0, 1)
