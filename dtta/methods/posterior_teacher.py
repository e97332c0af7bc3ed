"""Distil the posterior over the network's top classes into its weights: the diffusion model as a teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtta.core.problem import Problem
from dtta.methods import diffusion_posterior
from dtta.methods.diffusion_posterior import DiffusionPosterior
from dtta.methods.self_training import SelfTraining
from dtta.methods.settings import make_optimizer, model_and_parameters


class PosteriorTeacher(SelfTraining):
    """Minimise the cross-entropy -Σ_k p(c_k | x) log p_θ(c_k | x), where the posterior p is a fixed target.

    The target (see ``DiffusionPosterior``) is computed once for each call, from the network's belief before the first
    step; nothing is differentiated through the diffusion model, and the steps cost no further evaluations.

    Args:
        model: the task network f_θ, image -> logits (N, L), which is also that of the posterior.
        optimizer: over parameters of the model.
        posterior: the teacher.
        The rest: see ``SelfTraining`` and ``Adapter``; with `answer_before_step` the answer is the posterior.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        posterior: DiffusionPosterior,
        steps: int = 1,
        episodic: bool = True,
        **options,
    ):
        super().__init__(model, optimizer, steps, episodic, (posterior.diffusion,), **options)
        self.posterior = posterior

    @property
    def evaluations(self) -> int:
        """The evaluations of the diffusion model in the last call."""
        return self.posterior.evaluations

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.model(image)
        if self.taken == 0:
            self.output = self.posterior.rerank(image, logits.detach(), generator)
        return -(self.output.exp() * logits.float().log_softmax(dim=1)).sum(dim=1).mean()


def build(
    problem: Problem,
    *,
    optimizer: str = "sgd",
    lr: float = 5e-3,
    momentum: float = 0.9,
    steps: int = 5,
    trainable: str = "all",
    rank: int = 4,
    episodic: bool = True,
    reset_every: int | None = None,
    restore_rate: float = 0.0,
    answer_before_step: bool = False,
    top: int = 3,
    samples: int = 8,
    beta: float = 1.0,
    bound: float | None = None,
    stage: int = 4,
    p_min: float = 0.0,
    t_min: float = 0.0,
    t_max: float = 1.0,
    micro_batch: int = 512,
) -> PosteriorTeacher:
    """Build the teacher of a weight update; optimizer and steps by default as in Diffusion-TTA.

    `top` to `micro_batch`: see ``DiffusionPosterior``; the rest: see ``PosteriorTeacher``.
    """
    model, parameters = model_and_parameters(problem, trainable, rank)
    posterior = diffusion_posterior.build(
        problem, top=top, samples=samples, beta=beta, bound=bound, stage=stage, p_min=p_min, t_min=t_min, t_max=t_max,
        micro_batch=micro_batch,
    )  # fmt: skip
    return PosteriorTeacher(
        model, make_optimizer(optimizer, parameters, lr, momentum), posterior, steps, episodic, reset_every=reset_every,
        restore_rate=restore_rate, answer_before_step=answer_before_step,
    )  # fmt: skip
