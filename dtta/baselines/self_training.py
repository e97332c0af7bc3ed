"""What the methods share that adapt a network by an objective of its own, without a second model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dtta.adapt import check_image, gradients_only_for
from dtta.baselines.batch_norm import own_statistics


class SelfTraining(nn.Module):
    """Some steps downhill on `objective`, then the answer; called like ``DiffusionTTA``.

    One protocol for all methods: each image is answered by weights that have seen it, with a pass after the last step.
    The authors' code of TENT, EATA, SAR, CoTTA and DUSA answers from the pass that the step is taken from, before the
    weights move; MEMO, TPT and TTT-MAE answer afterwards, as here.

    Args:
        model: the task network f_θ, image -> output. Kept in eval mode.
        optimizer: over the weights that move, with no state yet.
        steps: gradient steps for each image.
        episodic: True: the weights return to their start after each image; False: they are carried along.
        others: further networks whose weights the optimizer may hold.

    Attributes:
        prior: batch norm's statistics count as so many images beside those given (see ``own_statistics``); None:
            they stay as they are.

    Raises:
        ValueError: a setting out of range, a used optimizer, or weights in it that belong to no network given.
    """

    prior: float | None = None

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: int = 1,
        episodic: bool = True,
        *others: nn.Module,
    ):
        super().__init__()
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, not {steps!r}")
        self.model, self.optimizer, self.steps, self.episodic = model.eval(), optimizer, steps, episodic
        self.adapted = [p for group in optimizer.param_groups for p in group["params"]]
        self._networks = (model, *others)  # a tuple registers none of them a second time
        own = {id(p) for network in self._networks for p in network.parameters()}
        if not all(id(p) in own for p in self.adapted):
            raise ValueError("the optimizer holds weights that are not the model's")
        if optimizer.state:
            raise ValueError("the optimizer has been used before; give a new one")
        self.start = [p.detach().clone() for p in self.adapted]
        self.generator = torch.Generator().manual_seed(0)
        self.losses: list[float] = []

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor | None:
        """What goes downhill, a scalar; None: nothing can be learnt from this image."""
        raise NotImplementedError

    def step(self, image: Tensor, generator: torch.Generator) -> Tensor | None:
        """One gradient step; returns the objective before it, or None if no step was made."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(image, generator)
        if loss is None:
            return None
        if not loss.isfinite():
            raise FloatingPointError(f"the objective is {loss.item()}; lower the rate")
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def answer(self, image: Tensor) -> Tensor:
        """The output after adaptation."""
        return self.model(image)

    def moved(self) -> None:
        """Called after each step that was made."""

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> the network's output after adaptation.

        Raises:
            ValueError: the image has the wrong shape, dtype or range.
            FloatingPointError: the objective or the answer is not finite. Episodic weights are put back.
        """
        check_image(image)
        self.model.eval()  # whatever a caller did to it in between
        self.losses = []
        try:
            with gradients_only_for(self.adapted, *self._networks), self._statistics(image):
                for _ in range(self.steps):
                    loss = self.step(image, generator or self.generator)
                    if loss is not None:
                        self.moved()
                        self.losses.append(loss.item())
            answer = self.recall(image)
            if not answer.isfinite().all():
                raise FloatingPointError("the adapted network's answer is not finite; lower the rate")
            return answer
        finally:
            if self.episodic:
                self.reset()

    @torch.no_grad()
    def recall(self, image: Tensor) -> Tensor:
        """The answer with the weights as they are now, without adapting."""
        with self._statistics(image):
            return self.answer(image)

    def normalised(self) -> list[nn.Module]:
        """The networks whose batch norm goes by `prior`."""
        return [self.model]

    def _statistics(self, image: Tensor) -> AbstractContextManager:
        """What `prior` says, while steps are made and while the answer is given; views do not count as images."""
        if self.prior is None:
            return nullcontext()
        return own_statistics(nn.ModuleList(self.normalised()), self.prior, len(image))

    @torch.no_grad()
    def reset(self) -> None:
        """Put back the weights as they were when this wrapper was made, and forget the optimizer's state."""
        torch._foreach_copy_(self.adapted, self.start)
        self.optimizer.state.clear()
        self.optimizer.zero_grad(set_to_none=True)
