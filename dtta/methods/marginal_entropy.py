"""Consistency across augmentations: TPT (Shu et al., NeurIPS 2022, arXiv 2209.07511) and MEMO (arXiv 2110.09506)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dtta.core.parameters import select
from dtta.core.problem import Problem
from dtta.methods.self_training import SelfTraining
from dtta.methods.settings import make_optimizer, model_and_parameters
from dtta.methods.tent import entropy
from dtta.methods.views import augmix, crops


class MarginalEntropy(SelfTraining):
    """Minimise H(p̄), with p̄ the mean of softmax f(x_v) over the random views of the image with the lowest entropy.

    TPT adapts the words of the prompt by one step of AdamW at 5e-3, with 64 crops of which it uses a tenth. MEMO (Zhang
    et al., NeurIPS 2022) adapts all of θ by one step with all of its AugMix views, and mixes batch norm's statistics
    with those of the views, with a prior of 16: 16/17 to 1/17, in the step and for the answer. Both are episodic, one
    image at a time. For differences in the views, see ``crops`` and ``augmix``.

    Args:
        views, keep: how many, the first is the image itself; the fraction that is used, with the lowest entropy.
        kind: of views, "crops" or "augmix".
        area, mirror: of crops: the smallest fraction of the image that one shows; whether they are mirrored at random.
        prior: of ``mixed_statistics``, with all views as one image; None: only running statistics.
        The rest: see ``Adapter``.
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
        if prior is not None and prior < 0:
            raise ValueError(f"the prior must be 0 or more images, not {prior!r}")
        self.views = views
        self.keep = keep
        self.area = area
        self.kind = kind
        self.mirror = mirror
        self.prior = prior

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        if self.kind == "augmix":
            views = augmix(image, self.views, generator)
        else:
            views = crops(image, self.views, generator, self.area, self.mirror)
        logits = self.model(views)  # (N V, L)
        logits = logits.float().unflatten(0, (len(image), self.views))
        used = max(1, math.floor(self.keep * self.views))
        lowest = entropy(logits.movedim(2, 1)).argsort(dim=1)[:, :used]  # (N, used)
        belief = logits.softmax(dim=2).gather(1, lowest[:, :, None].expand(-1, -1, logits.shape[2])).mean(dim=1)
        return entropy(belief.clamp(min=1e-12).log()).mean()


def build_tpt(
    problem: Problem,
    *,
    lr: float = 5e-3,
    steps: int = 1,
    trainable: str = "prompt",
    rank: int = 4,
    words: int = 4,
    views: int = 64,
    keep: float = 0.1,
    area: float = 0.5,
    episodic: bool = True,
) -> MarginalEntropy:
    """Build TPT; the defaults are its paper's, except `area`: its crops show 0.08 of the image or more.

    Its authors' code leaves AdamW's weight decay at PyTorch's default of 0.01, as here.
    """
    model, parameters = model_and_parameters(problem, trainable, rank, None, words)
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    return MarginalEntropy(model, optimizer, steps, episodic, views, keep, area, mirror=problem.mirrored)


def build_memo(
    problem: Problem,
    *,
    optimizer: str = "sgd",
    lr: float = 2.5e-4,
    steps: int = 1,
    views: int = 64,
    prior: float | None = 16,
    episodic: bool = True,
) -> MarginalEntropy:
    """Build MEMO; the defaults are its paper's for a ResNet on ImageNet: SGD without momentum (see ``augmix``)."""
    sgd = make_optimizer(optimizer, select(problem.model), lr, momentum=0.0)
    return MarginalEntropy(problem.model, sgd, steps, episodic, views, keep=1.0, kind="augmix", prior=prior)
