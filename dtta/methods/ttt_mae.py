"""TTT-MAE (Gandelsman et al., NeurIPS 2022, arXiv 2209.07522): learn to reconstruct masked parts of the test image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtta.core.problem import Problem
from dtta.methods.self_training import SelfTraining


class TttMae(SelfTraining):
    """Minimise the reconstruction error of the image under random masks; the head is not adapted.

    The paper uses 20 steps of SGD at 5e-3 with momentum 0.9, and 128 masks in each step that hide three quarters of the
    patches. Episodic, one image at a time. A weight decay of 0.2 at test time could not be confirmed: in the released
    code it belongs only to the training of the head. That code also normalises each patch by its mean and variance
    before it computes the error (``norm_pix_loss``), and adapts only the encoder; here the decoder is adapted too.

    Args:
        model: with a ``reconstruction_loss``, as ``dtta.problems.networks.mae.MaskedAutoencoder``.
        masks, hidden: masks for each image and step; the fraction of the patches that one hides, in (0, 1).
        The rest: see ``Adapter``.
    """

    def __init__(self, model, optimizer, steps=20, episodic=True, masks: int = 128, hidden: float = 0.75):
        super().__init__(model, optimizer, steps, episodic)
        if not hasattr(model, "reconstruction_loss"):
            raise ValueError(f"{type(model).__name__} has no reconstruction_loss; TTT-MAE needs a masked autoencoder")
        if not isinstance(masks, int) or masks < 1 or not 0 < hidden < 1:
            raise ValueError(f"masks ({masks}) must be at least 1, hidden ({hidden}) within (0, 1)")
        self.masks, self.hidden = masks, hidden

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return self.model.reconstruction_loss(image.repeat_interleave(self.masks, 0), self.hidden, generator).mean()


def build(
    problem: Problem,
    *,
    lr: float = 5e-3,
    weight_decay: float = 0.2,
    steps: int = 20,
    masks: int = 128,
    hidden: float = 0.75,
    episodic: bool = True,
) -> TttMae:
    """Build TTT-MAE for a masked autoencoder; the defaults are its paper's, except `weight_decay` (see ``TttMae``)."""
    head = {id(p) for p in getattr(problem.model, "head", nn.Identity()).parameters()}
    parameters = [p for p in problem.model.parameters() if id(p) not in head]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=weight_decay)
    return TttMae(problem.model, optimizer, steps, episodic, masks, hidden)
