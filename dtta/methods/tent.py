"""TENT (Wang et al., ICLR 2021, arXiv 2006.10726): minimise the entropy of the prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from dtta.core.problem import Problem
from dtta.methods.self_training import SelfTraining
from dtta.methods.settings import make_optimizer, model_and_parameters


def entropy(logits: Tensor) -> Tensor:
    """H(y) = -Σ_j p_j log p_j (its Eq. 1), for logits (N, L, ...), over the classes: (N, ...)."""
    log_p = logits.float().log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


class Tent(SelfTraining):
    """Minimise the entropy of the network's output; for maps, its mean over the pixels.

    The paper adapts the scales and shifts of the normalisation layers (``select(model, "norm")``), online, with one
    step of Adam at 1e-3 for each batch of 128; for ImageNet, SGD at 2.5e-4 and batches of 64. `batch_statistics`: batch
    norm uses the mean and variance of the batch, even of one image, as in the paper. The rest: see ``SelfTraining`` and
    ``Adapter``.
    """

    separable = True

    def __init__(self, model, optimizer, steps=1, episodic=True, batch_statistics: bool = True, **options):
        super().__init__(model, optimizer, steps, episodic, **options)
        self.prior = 0 if batch_statistics else None

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.model(image)
        self.output = logits.detach()
        return entropy(logits).mean()


def build(
    problem: Problem,
    *,
    optimizer: str = "adam",
    lr: float = 1e-3,
    steps: int = 1,
    trainable: str = "norm",
    rank: int = 4,
    episodic: bool = True,
    batch_statistics: bool = True,
    answer_before_step: bool = False,
) -> Tent:
    """Build TENT; the defaults are its paper's for CIFAR (the normalisation layers), except `episodic`.

    `optimizer`: "sgd" has momentum 0.9; for ImageNet the paper uses it at a learning rate of 2.5e-4 (its authors' code
    "nesterov"). `answer_before_step`: as in that code, see ``SelfTraining``.
    """
    model, parameters = model_and_parameters(problem, trainable, rank)
    chosen = make_optimizer(optimizer, parameters, lr)
    return Tent(model, chosen, steps, episodic, batch_statistics, answer_before_step=answer_before_step)
