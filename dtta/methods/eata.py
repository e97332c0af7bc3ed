"""EATA (Niu et al., ICML 2022, arXiv 2204.02610): TENT on reliable and non-redundant images, with an anchor."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtta.core.adapter import check_counts, gradients_only_for, take_logits
from dtta.core.parameters import select
from dtta.core.problem import Problem
from dtta.methods.batch_norm import mixed_statistics
from dtta.methods.self_training import SelfTraining
from dtta.methods.settings import make_optimizer
from dtta.methods.tent import entropy


class Eata(SelfTraining):
    """min over θ of mean S(x) H(f(x)) + β Σ_i ω_i (θ_i - θ_i^0)².

    S(x) = exp(E_0 - H) if H < E_0 (reliable) and the cosine of p and m is below ε (not redundant), else 0; m is the
    moving average of the beliefs p used for learning. ω is the diagonal of the Fisher information on clean images, with
    the network's predictions as labels. The paper adapts the normalisation layers, online, in batches of 64.

    Args:
        fisher: ω, one tensor for each adapted parameter (see ``fisher_information``); None: no anchor.
        beta, similarity: β and ε; in the paper 2000 and 0.05 for ImageNet, 1 and 0.4 for CIFAR-10.
        margin: E_0 as a fraction of ln L; 0.4 in the paper.
        batch_statistics, the rest: see ``Tent``.
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
        **options,
    ):
        super().__init__(model, optimizer, steps, episodic, **options)
        if not margin > 0 or not similarity > 0 or beta < 0:
            raise ValueError(
                f"margin ({margin}) and similarity ({similarity}) must be above 0, beta ({beta}) 0 or more"
            )
        if fisher is not None and [w.shape for w in fisher] != [p.shape for p in self.adapted]:
            raise ValueError("fisher must hold one tensor for each adapted parameter, of its shape")
        self.fisher = fisher
        self.beta = beta
        self.margin = margin
        self.similarity = similarity
        self.prior = 0 if batch_statistics else None
        self.average: Tensor | None = None  # m

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor | None:
        logits = self.model(image)
        self.output = logits.detach()
        H = entropy(logits)
        p = self.output.softmax(dim=1)
        limit = self.margin * math.log(logits.shape[1])  # E_0
        used = H.detach() < limit
        if self.average is not None:
            used &= F.cosine_similarity(p, self.average[None]).abs() < self.similarity
        if not used.any():
            return None
        mean = p[used].mean(dim=0)
        self.average = mean if self.average is None else 0.9 * self.average + 0.1 * mean
        weight = (limit - H.detach()).exp()
        loss = (weight * H)[used].mean()
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
    """Return ω_i = mean over images (Q, C, H, W), clean, of (∂/∂θ_i of the cross-entropy with the prediction)².

    The authors' code squares the mean gradient of a batch of 64; the paper's expectation is over images, as here.
    `batch_statistics`: batch norm uses the statistics of 64 images at a time, as it does during adaptation.
    """
    fisher = [torch.zeros_like(w) for w in weights]
    statistics = mixed_statistics(model) if batch_statistics else nullcontext()
    with gradients_only_for(weights, model), statistics:
        for x in images.split(64 if batch_statistics else 1):
            logits = take_logits(model, x, model(x))
            for loss in F.cross_entropy(logits, logits.argmax(dim=1), reduction="none"):
                gradients = torch.autograd.grad(loss, weights, retain_graph=True)
                for total, g in zip(fisher, gradients, strict=True):
                    total += g**2 / len(images)
    return fisher


def build(
    problem: Problem,
    *,
    lr: float = 2.5e-4,
    steps: int = 1,
    beta: float = 2000.0,
    margin: float = 0.4,
    similarity: float = 0.05,
    anchors: int = 100,
    batch_statistics: bool = True,
    episodic: bool = False,
    answer_before_step: bool = False,
) -> Eata:
    """Build EATA on the normalisation layers; the defaults are its paper's for ImageNet, except `anchors`.

    `anchors`: clean validation images for the Fisher information (2000 in the paper); 0: no anchor.
    """
    parameters = select(problem.model, "norm")
    fisher = None
    check_counts(anchors=anchors or 1)
    if anchors:
        clean, _ = problem.images(min(anchors, problem.size("validation")), split="validation")
        fisher = fisher_information(problem.model, parameters, clean, batch_statistics)
    optimizer = make_optimizer("sgd", parameters, lr)
    options = dict(fisher=fisher, beta=beta, margin=margin, similarity=similarity, batch_statistics=batch_statistics)
    return Eata(problem.model, optimizer, steps, episodic, **options, answer_before_step=answer_before_step)
