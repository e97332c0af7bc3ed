"""SAR (Niu et al., ICLR 2023, arXiv 2302.12400): TENT on reliable images, towards flat minima, with a way back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dtta.baselines.self_training import SelfTraining
from dtta.baselines.tent import entropy


class Sar(SelfTraining):
    """min over θ of S(x) max_{‖ε‖ ≤ ρ} H(f(x; θ + ε)), S(x) = [H < E_0].

    The inner maximum is taken at ε = ρ ∇H / ‖∇H‖; the images that are still reliable there give the gradient. When
    the moving average of that entropy falls below e_0, the network has become sure of everything: it starts afresh.
    The paper moves the normalisation layers but for the last block's, with SGD. Online by nature, in batches of 64, and
    of one image as one of the hard cases that it is made for.

    Args:
        rho: ρ, 0.05 in the paper.
        margin: E_0 as a share of ln L; 0.4 in the paper.
        floor: e_0, 0.2 in the paper; it is for a thousand classes, whose entropy reaches 6.9.
        batch_statistics: batch norm uses the batch's own statistics, as in the paper (see ``Tent``).
        The rest: see ``SelfTraining``.
    """

    def __init__(
        self,
        model,
        optimizer,
        steps=1,
        episodic=False,
        rho: float = 0.05,
        margin: float = 0.4,
        floor: float = 0.2,
        batch_statistics: bool = True,
    ):
        super().__init__(model, optimizer, steps, episodic)
        if not rho > 0 or not margin > 0 or floor < 0:
            raise ValueError(f"rho ({rho}) and margin ({margin}) must be above 0, floor ({floor}) 0 or more")
        self.rho, self.margin, self.floor = rho, margin, floor
        self.prior, self.average = 0 if batch_statistics else None, None

    def step(self, image: Tensor, generator: torch.Generator) -> Tensor | None:
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(image)
        H, limit = entropy(logits), self.margin * math.log(logits.shape[1])
        if not (sure := limit > H).any():
            return None
        here = H[sure].mean()
        gradients = torch.autograd.grad(here, self.adapted)
        size = torch.stack([g.norm() for g in gradients]).norm()
        old = [w.detach().clone() for w in self.adapted]
        try:
            with torch.no_grad():
                torch._foreach_add_(self.adapted, [self.rho * g / (size + 1e-12) for g in gradients])
            above = entropy(self.model(image))[sure]  # of the whole batch, by whose statistics batch norm goes
            still = above < limit
            if still.any():
                above[still].mean().backward()
        finally:  # whatever happens, no weight stays at the worst point
            with torch.no_grad():
                torch._foreach_copy_(self.adapted, old)
        if not here.isfinite():
            raise FloatingPointError(f"the objective is {here.item()}; lower the rate")
        if not still.any():
            return None
        self.optimizer.step()
        seen = above[still].mean().item()
        self.average = seen if self.average is None else 0.9 * self.average + 0.1 * seen
        if self.average < self.floor:
            self.reset()
        return here.detach()

    def reset(self) -> None:
        super().reset()
        self.average = None
