"""Consistency with an averaged teacher: Mean Teacher's objective with CoTTA's teacher, for a regression.

Mean Teacher (Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780) trains a student to agree with its moving average,
the teacher, on another view. CoTTA (Wang et al., CVPR 2022, arXiv 2203.13591) does so at test time.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dtta.core.parameters import select
from dtta.core.problem import Problem
from dtta.methods.augmentation import AugmentationMean, views
from dtta.methods.self_training import SelfTraining


class Consistency(SelfTraining):
    """J(θ) = E ‖f(x̃, θ) - ȳ‖₁ / ȳ, with ȳ the teacher's mean output for the image and its mirror image.

    The relative L1 error replaces CoTTA's cross-entropy. The student's view has a little noise, and brightness and
    contrast changed by up to `jitter`, in [0, 1): the augmentations that do not change the depth. `momentum`, in [0,
    1]: α of the teacher's moving average θ' ← α θ' + (1 - α) θ; CoTTA takes 0.999. The rest: see ``Adapter``.
    """

    def __init__(self, model, optimizer, steps=5, episodic=True, momentum: float = 0.999, jitter: float = 0.2):
        super().__init__(model, optimizer, steps, episodic)
        if not 0 <= momentum <= 1 or not 0 <= jitter < 1:
            raise ValueError(f"momentum ({momentum}) must lie in [0, 1] and jitter ({jitter}) in [0, 1)")
        self.momentum, self.jitter = momentum, jitter
        # A list hides the teacher from the student's parameters.
        self.teacher: list[nn.Module] = [copy.deepcopy(model).eval().requires_grad_(False)]

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        target = AugmentationMean(self.teacher[0], probabilities=False)(image)
        device = generator.device  # may differ from the image's
        gain, shift, side = (torch.rand(3, generator=generator, device=device) * 2 - 1).tolist()
        view = views(image)[0 if side < 0 else 1]
        view = (view - 0.5) * (1 + self.jitter * gain) + 0.5 + self.jitter * shift
        noise = torch.randn(view.shape, generator=generator, device=device).to(view.device)
        view = (view + 0.02 * noise).clamp(0, 1)
        target = target if side < 0 else target.flip(-1)
        return ((self.model(view) - target).abs() / target).mean()

    @torch.no_grad()
    def after_step(self) -> None:
        for teacher, student in zip(self.teacher[0].parameters(), self.model.parameters(), strict=True):
            teacher.lerp_(student.detach(), 1 - self.momentum)

    @torch.no_grad()
    def reset(self) -> None:
        super().reset()
        self.teacher[0].load_state_dict(self.model.state_dict())


def build(
    problem: Problem,
    *,
    lr: float = 1e-4,
    steps: int = 5,
    momentum: float = 0.999,
    jitter: float = 0.2,
    episodic: bool = True,
) -> Consistency:
    """Build consistency with an averaged teacher; Adam adapts all parameters."""
    optimizer = torch.optim.Adam(select(problem.model), lr=lr)
    return Consistency(problem.model, optimizer, steps, episodic, momentum, jitter)
