"""Consistency with an averaged teacher: Mean Teacher's objective, with CoTTA's teacher, for a regression.

Mean Teacher (Tarvainen & Valpola, NeurIPS 2017, arXiv 1703.01780): the student's answer to one view should
be the teacher's to another, the teacher being the moving average of the student. CoTTA (Wang et al., CVPR
2022, arXiv 2203.13591) does this at test time, with a teacher that averages over augmented views.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dtta.baselines.augmentation import AugmentationMean, views
from dtta.baselines.self_training import SelfTraining


class Consistency(SelfTraining):
    """J(θ) = E ‖f(x̃, θ) - ȳ‖₁ / ȳ, ȳ the teacher's mean answer to the image and its mirror image.

    The relative L1 error takes the place of CoTTA's cross-entropy. The student sees the image under
    jittered brightness and contrast and a little noise, the augmentations that leave depth as it is.

    Args:
        momentum: α of the teacher's moving average θ' ← α θ' + (1 - α) θ; CoTTA takes 0.999.
        jitter: the largest change of brightness and contrast.
        The rest: see ``SelfTraining``.
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
        device = generator.device  # of the chance, which need not be the image's
        gain, shift, side = (torch.rand(3, generator=generator, device=device) * 2 - 1).tolist()
        view = views(image)[0 if side < 0 else 1]
        view = (view - 0.5) * (1 + self.jitter * gain) + 0.5 + self.jitter * shift
        noise = torch.randn(view.shape, generator=generator, device=device).to(view.device)
        view = (view + 0.02 * noise).clamp(0, 1)
        wanted = target if side < 0 else target.flip(-1)
        return ((self.model(view) - wanted).abs() / wanted).mean()

    @torch.no_grad()
    def moved(self) -> None:
        for teacher, student in zip(self.teacher[0].parameters(), self.model.parameters(), strict=True):
            teacher.lerp_(student.detach(), 1 - self.momentum)

    @torch.no_grad()
    def reset(self) -> None:
        super().reset()
        self.teacher[0].load_state_dict(self.model.state_dict())
