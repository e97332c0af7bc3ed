"""What the methods share that adapt a network by an objective of its own output, without a second model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dtta.core.adapter import Adapter
from dtta.methods.batch_norm import mixed_statistics


class SelfTraining(Adapter):
    """Minimise `objective` by some gradient steps, then answer; called like ``DiffusionTTA``. Args: see ``Adapter``.

    Args:
        answer_before_step: answer with the output that the last step computed before it changed the parameters, as the
            authors' code of TENT, EATA, SAR, CoTTA and DUSA does. False: run the adapted network once more, as MEMO,
            TPT and TTT-MAE do.

    Attributes:
        prior: of batch norm, in images (see ``mixed_statistics``); 0: only the statistics of the input are used, as in
            training; None: only the running statistics.
        separable: whether the objective is a function of f_θ(x), and that of a batch the mean over its images, for
            which `generator` may be a list with one for each; then ``Together`` takes the method.
        output: of the last step, before it changed the parameters.
        losses: the objective at each step of the last call that changed the parameters.
    """

    prior: float | None = None
    separable = False
    output: Tensor

    def __init__(self, *args, answer_before_step: bool = False, **options):
        super().__init__(*args, **options)
        if answer_before_step and self.episodic and self.steps == 1:
            raise ValueError("answer_before_step needs episodic=False or more than one step")
        self.answer_before_step = answer_before_step
        self.losses: list[float] = []

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return the scalar to minimise, or None if nothing can be learnt from this image; set `output` if known."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after each step that changed the parameters."""

    def begin(self, image: Tensor) -> None:
        self.losses = []

    def take_steps(self, image: Tensor, generator: torch.Generator) -> Tensor | None:
        super().take_steps(image, generator)
        return self.output if self.answer_before_step else None

    def step(self, image: Tensor, generator: torch.Generator) -> None:
        """Take one gradient step on the objective."""
        loss = self.objective(image, generator)
        if loss is None:
            return
        self.check_finite(loss, "the objective")
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())
        self.after_step()

    def normalised_networks(self) -> list[nn.Module]:
        """Return the networks whose batch norm uses `prior`."""
        return [self.model]

    def statistics(self, image: Tensor) -> AbstractContextManager:
        """Use `prior` in steps and answer; the number of images is that given, however many views there are."""
        if self.prior is None:
            return nullcontext()
        return mixed_statistics(nn.ModuleList(self.normalised_networks()), self.prior or None, len(image))
