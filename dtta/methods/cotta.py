"""CoTTA (Wang et al., CVPR 2022, arXiv 2203.13591): learn from an averaged teacher, and restore some weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dtta.core.adapter import check_counts, take_logits
from dtta.core.parameters import select
from dtta.core.problem import Problem
from dtta.methods.self_training import SelfTraining
from dtta.methods.settings import make_optimizer
from dtta.methods.views import jittered


class Cotta(SelfTraining):
    """Minimise the cross-entropy -Σ_j y'_j log y_j with the belief y' of a teacher, the moving average of the student.

    If the network before any adaptation is confident (above `threshold`), y' is the teacher's belief for the image;
    otherwise it is the mean of the teacher's beliefs for `views` augmented views. After each step the teacher becomes
    θ' ← α θ' + (1 - α) θ, and each weight of the student returns to its initial value with probability `restore`. The
    teacher gives the answer; with `answer_before_step` it is y'. The paper adapts all weights, online, in batches of
    200 (64 for ImageNet). The authors' code for ImageNet differs: it makes one decision for the whole batch, by its
    mean confidence; it averages logits over views; it uses the mean of the cross-entropies in both directions.

    Args:
        momentum, restore: α, 0.999 in the paper, and p, 0.01 (0.001 for ImageNet).
        threshold: p_th, 0.92 for CIFAR-10 in the paper.
        views, mirror: 32 in the paper; whether they are mirrored at random.
        batch_statistics: of student, teacher and source, as in the authors' code (see ``Tent``).
        as_released: do as the authors' code for ImageNet does.
        The rest: see ``SelfTraining`` and ``Adapter``.
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
        as_released: bool = False,
        **options,
    ):
        super().__init__(model, optimizer, steps, episodic, **options)
        for name, value in dict(momentum=momentum, restore=restore, threshold=threshold).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {value!r}")
        check_counts(views=views)
        self.momentum, self.restore, self.threshold = momentum, restore, threshold
        self.views, self.mirror, self.as_released = views, mirror, as_released
        self.prior = 0 if batch_statistics else None
        # In lists, so that their weights are not registered as the student's.
        self.teacher: list[nn.Module] = [copy.deepcopy(model).eval().requires_grad_(False)]
        self.teacher[0].register_forward_hook(take_logits)
        self.source: list[nn.Module] = [copy.deepcopy(self.teacher[0])]

    def normalised_networks(self) -> list[nn.Module]:
        return [self.model, *self.teacher, *self.source]

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        self.random = generator
        with torch.no_grad():
            target = self.taught(image)
            confidence = self.source[0](image).softmax(dim=1).amax(dim=1)
            if self.as_released:
                confidence = confidence.mean().expand_as(confidence)
            uncertain = confidence < self.threshold
            if uncertain.any():
                # Each view includes all images, so that batch norm sees a batch like the one to be answered.
                belief = torch.zeros_like(target)
                for _ in range(self.views):
                    belief += self.taught(jittered(image, 1, generator, self.mirror))
                target[uncertain] = belief[uncertain] / self.views
            self.output = target if self.as_released else target.clamp(min=1e-12).log()
        y = self.model(image)
        if not self.as_released:
            return -(target * y.log_softmax(dim=1)).sum(dim=1).mean()
        both = target.softmax(dim=1) * y.log_softmax(dim=1) + y.softmax(dim=1) * target.log_softmax(dim=1)
        return -both.sum(dim=1).mean() / 2

    def taught(self, image: Tensor) -> Tensor:
        """Return what is averaged over views: the teacher's belief, or its logits."""
        logits = self.teacher[0](image)
        return logits if self.as_released else logits.softmax(dim=1)

    @torch.no_grad()
    def after_step(self) -> None:
        for teacher, student in zip(self.teacher[0].parameters(), self.model.parameters(), strict=True):
            teacher.lerp_(student.detach(), 1 - self.momentum)
        for w, start in zip(self.adapted, self.start, strict=True):
            u = torch.rand(w.shape, generator=self.random, device=self.random.device).to(w.device)
            w.copy_(torch.where(u < self.restore, start, w))

    def answer(self, image: Tensor) -> Tensor:
        return self.teacher[0](image)

    @torch.no_grad()
    def reset(self) -> None:
        super().reset()
        self.teacher[0].load_state_dict(self.source[0].state_dict())


def build(
    problem: Problem,
    *,
    optimizer: str = "adam",
    lr: float = 1e-3,
    steps: int = 1,
    momentum: float = 0.999,
    restore: float = 0.01,
    threshold: float = 0.92,
    views: int = 32,
    batch_statistics: bool = True,
    episodic: bool = False,
    answer_before_step: bool = False,
    as_released: bool = False,
) -> Cotta:
    """Build CoTTA; the defaults are its paper's for CIFAR-10.

    `optimizer`: for ImageNet the authors use "nesterov" (SGD with momentum 0.9) at a learning rate of 0.01, with a
    threshold of 0.1, `restore` 0.001, `answer_before_step` and `as_released`. `momentum`: of the teacher.
    """
    chosen = make_optimizer(optimizer, select(problem.model), lr)
    options = dict(momentum=momentum, restore=restore, threshold=threshold, views=views, mirror=problem.mirrored)
    options |= dict(batch_statistics=batch_statistics, as_released=as_released, answer_before_step=answer_before_step)
    return Cotta(problem.model, chosen, steps, episodic, **options)
