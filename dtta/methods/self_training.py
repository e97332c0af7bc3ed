"""What the methods share that adapt a network by an objective of its own output, without a second model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dtta.core.adapter import Adapter
from dtta.methods.batch_norm import mixed_statistics


class SelfTraining(Adapter):
    """Minimise `objective` by some gradient steps, then answer; called like ``DiffusionTTA``. Args: see ``Adapter``.

    Every method takes its steps first, then runs the adapted network once more to answer. The authors' code of TENT,
    EATA, SAR, CoTTA and DUSA answers with the forward pass of the step itself, before the parameters change; MEMO, TPT
    and TTT-MAE answer after it, as here.

    Attributes:
        prior: of batch norm, in images (see ``mixed_statistics``); None: only the running statistics are used.
        losses: the objective at each step of the last call that changed the parameters.
    """

    prior: float | None = None

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.losses: list[float] = []

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return the scalar to minimise, or None if nothing can be learnt from this image."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after each step that changed the parameters."""

    def begin(self, image: Tensor) -> None:
        self.losses = []

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
        return mixed_statistics(nn.ModuleList(self.normalised_networks()), self.prior, len(image))
