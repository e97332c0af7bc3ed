"""TENT (Wang et al., ICLR 2021, arXiv 2006.10726): make the network surer of itself."""

from __future__ import annotations

import torch
from torch import Tensor

from dtta.baselines.self_training import SelfTraining


def entropy(logits: Tensor) -> Tensor:
    """H(y) = -Σ_j p_j log p_j (its Eq. 1), for logits (N, L, ...), over the classes: (N, ...)."""
    log_p = logits.float().log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


class Tent(SelfTraining):
    """Goes downhill on the entropy of the network's own answer; for maps, the mean over the pixels.

    The paper moves the scales and shifts of the normalisation layers (``select(model, "norm")``), with Adam at
    1e-3, one step for each batch of a stream, and normalises by the batch's own statistics. For ImageNet it takes SGD
    at 2.5e-4. Online by nature, in batches of 128 (64 for ImageNet).

    Args:
        batch_statistics: batch norm uses the image's own mean and variance, as in the paper. With batches of
            one image it is the image's own; networks with layer norm alone do not notice.
        The rest: see ``SelfTraining``.
    """

    def __init__(self, model, optimizer, steps=1, episodic=True, batch_statistics: bool = True):
        super().__init__(model, optimizer, steps, episodic)
        self.prior = 0 if batch_statistics else None

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return entropy(self.model(image)).mean()
