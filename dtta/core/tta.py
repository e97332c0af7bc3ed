"""Algorithm 1 of the paper: adapt a model to one image with the feedback of a diffusion model.

 1  given an image x, a task network f_θ, a diffusion model ε_φ;  z0 ← encode(x)
 2  for each of N steps:
 3      y ← f_θ(x), logits or a depth map
 4      c ← c(y), which applies the softmax to logits
 5      draw B timesteps t and noises ε
 6      L ← mean of ‖ε_φ(z_t, t, c) − ε‖² over pairs and elements;  z_t = √ᾱ_t z0 + √(1 − ᾱ_t) ε
 7      θ ← θ − η ∇_θ L
 8      φ ← φ − η ∇_φ L  (optional)
 9  return f_θ(x)

tta = DiffusionTTA(model, diffusion, condition, optimizer, steps=5, samples=180)
output = tta(image)        # adapts, then answers, like calling the model
tta.history                # loss, condition and output at every step
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dtta.core.adapter import Adapter, check_counts
from dtta.core.diffusion import Diffusion
from dtta.core.feedback import Feedback, accumulate, run_in_passes_that_fit, run_with_scaled_gradients
from dtta.core.sampling import Sampling
from dtta.core.stopping import Stopping


@dataclass(frozen=True)
class Step:
    """What one step computed before it changed the parameters."""

    loss: Tensor  # L(θ, φ), a scalar
    condition: Tensor  # c
    output: Tensor  # y = f_θ(x): logits (N, L, ...), or depths


class DiffusionTTA(Adapter):
    """Wrap a task network: each call adapts it to the image, then returns the prediction.

    The optimizer decides what is adapted: θ, a part of θ, or θ and φ (see ``dtta.core.parameters``). The paper uses
    SGD (learning rate 5e-3, momentum 0.9) or Adam (1e-5) on all of θ, and also on φ except under Stable Diffusion.

    Args:
        model: the task network f_θ, image -> output. Kept in eval mode.
        diffusion: the diffusion model ε_φ (see ``dtta.core.diffusion``). Kept in eval mode.
        condition: output -> c, differentiable (see ``dtta.core.conditions``).
        optimizer, steps, episodic, reset_every, restore_rate, seed: see ``Adapter``, also for the errors raised.
        samples: B, the number of pairs (t, ε) for each step and image.
        sampling: how (t, ε) are drawn.
        stopping: when to stop before the last step; None: never.
        micro_batch: pairs in one pass through the diffusion model; None: all at once. If memory runs out it is halved
            until a pass fits. It changes memory and speed, not the gradient.
        norm: "l2" (the paper) or "l1".
        weighting: of the loss at each t, see ``Diffusion.weight``; "none" is the paper.
        autocast: dtype of the diffusion model's pass, such as torch.bfloat16; all else keeps its dtype.
        on_step: called with each ``Step`` before the parameters change: a progress bar, a log.
    """

    def __init__(
        self,
        model: nn.Module,
        diffusion: Diffusion,
        condition: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: int = 5,
        samples: int = 180,
        episodic: bool = True,
        *,
        sampling: Sampling | None = None,
        stopping: Stopping | None = None,
        micro_batch: int | None = None,
        norm: str = "l2",
        weighting: str = "none",
        autocast: torch.dtype | None = None,
        on_step: Callable[[Step], None] | None = None,
        **life_cycle: Any,
    ):
        super().__init__(model, optimizer, steps, episodic, (diffusion, condition), **life_cycle)
        check_counts(samples=samples, micro_batch=1 if micro_batch is None else micro_batch)
        diffusion.check_loss(norm, weighting)
        self.diffusion = diffusion.eval()
        self.condition = condition
        self.samples = samples
        self.sampling = sampling or Sampling()
        self.stopping = stopping or Stopping()
        self.micro_batch = micro_batch
        self.norm = norm
        self.weighting = weighting
        self.autocast = autocast
        self.on_step = on_step
        self.history: list[Step] = []

    def begin(self, x: Tensor) -> None:
        """Encode the image once for all steps."""
        self.history = []
        self.z0 = self.diffusion.encode(x)

    def step(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """Lines 3 to 8 of Algorithm 1; line 2, the loop, and line 9, the answer, are in `Adapter`."""
        y = self.model(x)  # line 3
        if self.stopping.should_stop([*(step.output for step in self.history), y.detach()]):
            return y.detach()
        c = self.condition(y)  # line 4
        if not (y.requires_grad and c.requires_grad) and any(p.requires_grad for p in self.model.parameters()):
            raise ValueError("c has no gradient with respect to θ: the network or condition uses no_grad or argmax")
        draw = partial(self.sampling.draw, self.z0, self.samples, self.diffusion.timesteps, generator)
        # Draw the next pairs while the GPU computes; with early stopping, only when a step is certain to be taken.
        ahead = not self.sampling.reuse_noise and self.stopping == Stopping()
        if not self.history or not (ahead or self.sampling.reuse_noise):
            self.pairs = draw()  # line 5
        loss, c_grad = self.feedback(self.z0, *self.pairs, c)  # line 6, ∂L/∂c and, if φ is adapted, ∂L/∂φ
        if c_grad is not None:
            c.backward(c_grad)  # ∂L/∂θ, and ∂L/∂φ of a class table in c; one backward pass serves all pairs
        if ahead and self.taken + 1 < self.steps:
            self.pairs = draw()  # line 5 of the next step, while a GPU is still computing
        self.check_finite(loss, "the diffusion loss")  # waits for the GPU
        self.history.append(Step(loss, c.detach(), y.detach()))
        if self.on_step:
            self.on_step(self.history[-1])
        self.optimizer.step()  # lines 7 and 8
        return None

    def weight(self, t: Tensor) -> Tensor:
        """Return the weight of the loss at each t, in its shape: that of the sampling times that of the weighting."""
        weight = self.diffusion.weight(t, self.weighting, self.sampling.t_min, self.sampling.t_max)
        return self.sampling.weight(t, self.diffusion.timesteps) * weight

    def feedback(self, z0: Tensor, t: Tensor, noise: Tensor, c: Tensor) -> Feedback:
        """Clear all gradients, then return L and ∂L/∂c (see `accumulate`), in passes that fit into memory."""
        pairs, weight = t.numel(), self.weight(t)

        def attempt(micro_batch: int, scale: float) -> Feedback:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(z0.device.type, self.autocast, enabled=self.autocast is not None):
                return accumulate(self.diffusion, z0, t, noise, c, micro_batch, self.norm, weight, scale)

        def scaled(scale: float) -> Feedback:
            return run_in_passes_that_fit(self, pairs, lambda size: attempt(size, scale))

        if torch.float16 not in (self.autocast, self.diffusion.autocast, self.diffusion.network.dtype):
            return scaled(1.0)
        return run_with_scaled_gradients(pairs * z0[0].numel(), scaled, self.adapted)
