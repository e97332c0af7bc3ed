"""SAR (Niu et al., ICLR 2023, arXiv 2302.12400): TENT on reliable images, towards flat minima, with a reset."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dtta.core.parameters import select
from dtta.core.problem import Problem
from dtta.methods.self_training import SelfTraining
from dtta.methods.settings import make_optimizer
from dtta.methods.tent import entropy


class Sar(SelfTraining):
    """min over θ of S(x) max_{‖ε‖ ≤ ρ} H(f(x; θ + ε)), S(x) = [H < E_0].

    The inner maximum is approximated at ε = ρ ∇H / ‖∇H‖; the images that are still reliable there give the gradient. If
    the moving average of that entropy falls below e_0, the network has collapsed to confident answers, and is reset.
    The paper adapts the normalisation layers except those of the last block, with SGD, online, in batches of 64;
    batches of one image are one of the hard cases that it is designed for.

    The authors' code differs from the paper's algorithm in two ways: if no image is reliable it still takes a step, by
    the momentum alone; and a reset restores the parameters, but neither the momentum nor the moving average, so that
    further resets follow until the average has risen to e_0 again.

    Args:
        rho, margin: ρ, 0.05 in the paper, and E_0 as a fraction of ln L, 0.4 in the paper.
        floor: e_0, 0.2 in the paper, for a thousand classes, whose entropy is at most 6.9.
        as_released: do as the authors' code does.
        batch_statistics, the rest: see ``Tent``.
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
        as_released: bool = False,
        **options,
    ):
        super().__init__(model, optimizer, steps, episodic, **options)
        if not rho > 0 or not margin > 0 or floor < 0:
            raise ValueError(f"rho ({rho}) and margin ({margin}) must be above 0, floor ({floor}) 0 or more")
        self.rho = rho
        self.margin = margin
        self.floor = floor
        self.as_released = as_released
        self.prior = 0 if batch_statistics else None
        self.average: float | None = None

    def step(self, image: Tensor, generator: torch.Generator) -> None:
        logits = self.model(image)
        self.output = logits.detach()
        above = self.set_gradients(image, entropy(logits), self.margin * math.log(logits.shape[1]))
        if above is not None:
            self.average = above if self.average is None else 0.9 * self.average + 0.1 * above
        elif self.as_released:
            for w in self.adapted:
                w.grad = torch.zeros_like(w)
        else:
            return
        self.optimizer.step()
        if self.average is not None and self.average < self.floor:
            if self.as_released:
                with torch.no_grad():
                    torch._foreach_copy_(self.adapted, self.start)
            else:
                self.reset()

    def set_gradients(self, image: Tensor, H: Tensor, limit: float) -> float | None:
        """Set the gradients at the maximum and return the entropy there; None: no reliable image. `limit`: E_0."""
        reliable = limit > H
        if not reliable.any():
            return None
        here = H[reliable].mean()
        gradients = torch.autograd.grad(here, self.adapted)
        size = torch.stack([g.norm() for g in gradients]).norm()
        old = [w.detach().clone() for w in self.adapted]
        try:
            with torch.no_grad():
                torch._foreach_add_(self.adapted, [self.rho * g / (size + 1e-12) for g in gradients])
            above = entropy(self.model(image))[reliable]  # the whole batch, since batch norm uses its statistics
            still = above < limit
            if still.any():
                above[still].mean().backward()
        finally:  # whatever happens, no parameter stays at the maximum
            with torch.no_grad():
                torch._foreach_copy_(self.adapted, old)
        self.check_finite(here, "the objective")
        if not still.any():
            return None
        self.losses.append(here.item())
        return above[still].mean().item()

    def reset(self) -> None:
        super().reset()
        self.average = None


def build(
    problem: Problem,
    *,
    lr: float = 2.5e-4,
    steps: int = 1,
    rho: float = 0.05,
    margin: float = 0.4,
    floor: float = 0.2,
    batch_statistics: bool = True,
    episodic: bool = False,
    answer_before_step: bool = False,
    as_released: bool = False,
) -> Sar:
    """Build SAR on all normalisation layers (its paper leaves out the last block's); its defaults for ImageNet."""
    optimizer = make_optimizer("sgd", select(problem.model, "norm"), lr)
    options = dict(rho=rho, margin=margin, floor=floor, batch_statistics=batch_statistics, as_released=as_released)
    return Sar(problem.model, optimizer, steps, episodic, **options, answer_before_step=answer_before_step)
