"""CoTTA (Wang et al., CVPR 2022, arXiv 2203.13591): learn from an averaged teacher, and forget a little."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dtta.baselines.self_training import SelfTraining
from dtta.baselines.views import jittered


class Cotta(SelfTraining):
    """The student follows the teacher's belief, -Σ_j y'_j log y_j; the teacher is the student's average.

    Where the network as it was before any adaptation is sure (above `threshold`) the teacher sees the image, else its
    beliefs in `views` of it are averaged. The teacher moves by θ' ← α θ' + (1 - α) θ; after
    each step every weight returns to its start with probability `restore`. The teacher gives the answer.
    The paper moves all weights. Online by nature, in batches of 200 (64 for ImageNet).

    The authors' code differs from its paper's equations, and from this: one decision for the whole batch, by the mean
    of its confidences; views are averaged as logits; for ImageNet the cross-entropy is taken both ways round.

    Args:
        momentum: α, 0.999 in the paper.
        restore: p, 0.01 in the paper (0.001 for ImageNet).
        threshold: p_th, 0.92 for CIFAR-10 in the paper.
        views: 32 in the paper. mirror: whether views are mirrored by chance.
        batch_statistics: batch norm of student, teacher and source uses the batch's own statistics, as in the authors'
            code (see ``Tent``); a view of the whole batch at a time.
        The rest: see ``SelfTraining``.
    """

    def __init__(
        self,
        model,
        optimizer,
        steps=1,
        episodic=False,
        momentum: float = 0.999,
        restore: float = 0.01,
        threshold: float = 0.92,
        views: int = 32,
        mirror: bool = True,
        batch_statistics: bool = True,
    ):
        super().__init__(model, optimizer, steps, episodic)
        for name, value in dict(momentum=momentum, restore=restore, threshold=threshold).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {value!r}")
        if not isinstance(views, int) or views < 1:
            raise ValueError(f"views must be a whole number of at least 1, not {views!r}")
        self.momentum, self.restore, self.threshold = momentum, restore, threshold
        self.views, self.mirror = views, mirror
        self.prior = 0 if batch_statistics else None
        # Lists hide them from the student's parameters.
        self.teacher: list[nn.Module] = [copy.deepcopy(model).eval().requires_grad_(False)]
        self.source: list[nn.Module] = [copy.deepcopy(self.teacher[0])]

    def normalised(self) -> list[nn.Module]:
        return [self.model, *self.teacher, *self.source]

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        self.chance = generator
        with torch.no_grad():
            target = self.teacher[0](image).softmax(dim=1)
            unsure = self.source[0](image).softmax(dim=1).amax(dim=1) < self.threshold
            if unsure.any():
                # All images take part in each view, so that batch norm meets a batch like the one to be answered.
                belief = torch.zeros_like(target)
                for _ in range(self.views):
                    belief += self.teacher[0](jittered(image, 1, generator, self.mirror)).softmax(dim=1)
                target[unsure] = belief[unsure] / self.views
        return -(target * self.model(image).log_softmax(dim=1)).sum(dim=1).mean()

    @torch.no_grad()
    def moved(self) -> None:
        for teacher, student in zip(self.teacher[0].parameters(), self.model.parameters(), strict=True):
            teacher.lerp_(student.detach(), 1 - self.momentum)
        for w, start in zip(self.adapted, self.start, strict=True):
            chance = torch.rand(w.shape, generator=self.chance, device=self.chance.device).to(w.device)
            w.copy_(torch.where(chance < self.restore, start, w))

    def answer(self, image: Tensor) -> Tensor:
        return self.teacher[0](image)

    @torch.no_grad()
    def reset(self) -> None:
        super().reset()
        self.teacher[0].load_state_dict(self.source[0].state_dict())
