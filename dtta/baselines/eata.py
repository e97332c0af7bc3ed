"""EATA (Niu et al., ICML 2022, arXiv 2204.02610): TENT on what is sure and new, held back where weights matter."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtta.adapt import gradients_only_for
from dtta.baselines.batch_norm import own_statistics
from dtta.baselines.self_training import SelfTraining
from dtta.baselines.tent import entropy


class Eata(SelfTraining):
    """min over θ of mean S(x) H(f(x)) + β Σ_i ω_i (θ_i - θ_i^0)², for images worth learning from.

    S(x) = exp(E_0 - H) where H < E_0 (reliable) and the cosine of p and m is below ε (not redundant), else 0;
    m is the moving average of the beliefs p that were learnt from. ω is the diagonal of the Fisher information
    on clean images with the network's own answers as labels. The paper moves the normalisation layers. Online by
    nature, in batches of 64.

    Args:
        fisher: ω, one tensor for each weight that moves (see ``fisher_information``); None: no anchor.
        beta: β; 2000 for ImageNet, 1 for CIFAR-10 in the paper.
        margin: E_0 as a share of ln L; 0.4 in the paper.
        similarity: ε; 0.05 for ImageNet, 0.4 for CIFAR-10 in the paper.
        batch_statistics: batch norm uses the batch's own statistics, as in the paper (see ``Tent``).
        The rest: see ``SelfTraining``.
    """

    def __init__(
        self,
        model,
        optimizer,
        steps=1,
        episodic=False,
        fisher: list[Tensor] | None = None,
        beta: float = 2000.0,
        margin: float = 0.4,
        similarity: float = 0.05,
        batch_statistics: bool = True,
    ):
        super().__init__(model, optimizer, steps, episodic)
        if not margin > 0 or not similarity > 0 or beta < 0:
            raise ValueError(
                f"margin ({margin}) and similarity ({similarity}) must be above 0, beta ({beta}) 0 or more"
            )
        if fisher is not None and [w.shape for w in fisher] != [p.shape for p in self.adapted]:
            raise ValueError("fisher must hold one tensor for each weight that moves, of its shape")
        self.fisher, self.beta, self.margin, self.similarity = fisher, beta, margin, similarity
        self.prior, self.average = 0 if batch_statistics else None, None

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor | None:
        logits = self.model(image)
        H, p, limit = entropy(logits), logits.detach().softmax(dim=1), self.margin * math.log(logits.shape[1])
        worth = H.detach() < limit
        if self.average is not None:
            worth &= F.cosine_similarity(p, self.average[None]).abs() < self.similarity
        if not worth.any():
            return None
        mean = p[worth].mean(dim=0)
        self.average = mean if self.average is None else 0.9 * self.average + 0.1 * mean
        weight = (limit - H.detach()).exp()
        loss = (weight * H)[worth].mean()
        if self.fisher is not None:
            terms = zip(self.fisher, self.adapted, self.start, strict=True)
            loss = loss + self.beta * sum((w * (theta - start) ** 2).sum() for w, theta, start in terms)
        return loss

    def reset(self) -> None:
        super().reset()
        self.average = None


def fisher_information(
    model: nn.Module, weights: list[nn.Parameter], images: Tensor, batch_statistics: bool = False
) -> list[Tensor]:
    """ω_i = mean over images of (∂/∂θ_i of the cross-entropy with the network's own answer)².

    The authors' code squares the mean gradient of a batch of 64; the paper's expectation is over images, as here.

    Args:
        weights: those of the model that are to move. images: (Q, C, H, W), clean.
        batch_statistics: batch norm uses the statistics of 64 images at a time, as it does while the network adapts.
    """
    found = [torch.zeros_like(w) for w in weights]
    statistics = own_statistics(model) if batch_statistics else nullcontext()
    with gradients_only_for(weights, model), statistics:
        for x in images.split(64 if batch_statistics else 1):
            logits = model(x)
            for loss in F.cross_entropy(logits, logits.argmax(dim=1), reduction="none"):
                gradients = torch.autograd.grad(loss, weights, retain_graph=True)
                for total, g in zip(found, gradients, strict=True):
                    total += g**2 / len(images)
    return found
