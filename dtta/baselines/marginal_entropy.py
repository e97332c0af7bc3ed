"""One answer for all views: TPT (Shu et al., NeurIPS 2022, arXiv 2209.07511) and MEMO (arXiv 2110.09506)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dtta.baselines.self_training import SelfTraining
from dtta.baselines.tent import entropy
from dtta.baselines.views import augmix, crops


class MarginalEntropy(SelfTraining):
    """Goes downhill on the entropy of the mean belief over random views of the image.

    H(p̄), p̄ the mean of softmax f(x_v) over the views whose own entropy is among the lowest.
    TPT moves the words of the prompt, one step of AdamW at 5e-3, 64 crops, the surest tenth. MEMO (Zhang et al.,
    NeurIPS 2022) moves all of θ by one step, hears all of its views by AugMix, and mixes batch norm's statistics
    with those of what it is given, by a prior of 16: 16/17 to 1/17, in the step and for the answer.
    Both are episodic, one image at a time. What differs in the views: see ``crops`` and ``augmix``.

    Args:
        views: how many; the first is the image itself.
        keep: share of the views that are heard, the surest ones.
        area: the smallest share of the picture that a crop shows.
        kind: of views, "crops" or "augmix".
        mirror: whether crops are mirrored by chance.
        prior: batch norm's statistics count as so many images beside the one given, all of whose views are one image
            (see ``own_statistics``); None: they stay as they are.
        The rest: see ``SelfTraining``.
    """

    def __init__(
        self,
        model,
        optimizer,
        steps=1,
        episodic=True,
        views: int = 64,
        keep: float = 0.1,
        area: float = 0.5,
        kind: str = "crops",
        mirror: bool = True,
        prior: float | None = None,
    ):
        super().__init__(model, optimizer, steps, episodic)
        if not isinstance(views, int) or views < 2 or not 0 < keep <= 1 or not 0 < area <= 1:
            raise ValueError(f"views ({views}) must be 2 or more, keep ({keep}) and area ({area}) in (0, 1]")
        if kind not in ("crops", "augmix"):
            raise ValueError(f"the kind of views must be 'crops' or 'augmix', not {kind!r}")
        self.views, self.keep, self.area, self.kind, self.mirror, self.prior = views, keep, area, kind, mirror, prior

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        if self.kind == "augmix":
            seen = augmix(image, self.views, generator)
        else:
            seen = crops(image, self.views, generator, self.area, self.mirror)
        logits = self.model(seen)  # (N V, L)
        logits = logits.float().unflatten(0, (len(image), self.views))
        heard = max(1, math.floor(self.keep * self.views))
        surest = entropy(logits.movedim(2, 1)).argsort(dim=1)[:, :heard]  # (N, heard)
        belief = logits.softmax(dim=2).gather(1, surest[:, :, None].expand(-1, -1, logits.shape[2])).mean(dim=1)
        return entropy(belief.clamp(min=1e-12).log()).mean()
