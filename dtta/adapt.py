"""Algorithm 1 of the paper: adapt a model to one image by the feedback of a diffusion model.

    tta = DiffusionTTA(model, diffusion, condition, optimizer, steps=5, samples=180)
    output = tta(image)        # adapts, then answers, like calling the model
    tta.history                # loss, condition and answer at every step

What moves is what the optimizer holds: θ, a part of θ, or θ and φ (see dtta.parameters).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dtta.diffusion import Diffusion
from dtta.economy import Economy
from dtta.sampling import Sampling

WEIGHTINGS = ("none", "snr", "min-snr")


@dataclass(frozen=True)
class Step:
    """What one step saw before it moved the weights."""

    loss: Tensor  # L(θ, φ), a scalar
    condition: Tensor  # c
    output: Tensor  # f_θ(x)


class DiffusionTTA(nn.Module):
    """Wraps a task network and is called like it; each call adapts first, then answers.

    Args:
        model: the task network f_θ, image -> output. Kept in eval mode.
        diffusion: the diffusion model ε_φ (see dtta.diffusion). Kept in eval mode.
        condition: output -> c, differentiable (see dtta.conditions).
        optimizer: over the weights that move, with no state yet. The paper uses SGD (5e-3, momentum
            0.9) or Adam (1e-5); it adapts all of θ, and φ too except under Stable Diffusion.
        steps: N, gradient steps for each image.
        samples: B, (t, ε) pairs for each step and image.
        episodic: True: θ and φ return to their start after each image (single-sample adaptation).
            False: weights and optimizer state are carried along the stream (online adaptation).
        period: online, start afresh after so many calls; None: never.
        pull: online, the share of the way back to their start that the weights go after each call; 0: none.
        sampling: how (t, ε) are drawn.
        economy: when an image has had enough (see ``dtta.economy``); None: after `steps` steps alone.
        micro_batch: pairs in one pass through the diffusion model; None: all at once. Where memory runs out it is
            halved until it fits. It changes memory and speed, not the gradient.
        norm: "l2" (the paper) or "l1".
        weighting: what the loss at each t counts: "none" (the paper), "snr": the signal-to-noise ratio, which makes
            it the error of the denoised image, or "min-snr": that, at most 5 (Hang et al., arXiv 2303.09556).
            Divided by its mean over the range of t that is heard.
        autocast: torch.bfloat16, say, for the diffusion model's pass; the rest stays float32. With torch.float16 the
            loss is scaled on its way back, so that small gradients are not lost.
        seed: of the generator used when a call brings none.
        on_step: called with each ``Step`` before the weights move: a progress bar, a log.

    Raises:
        ValueError: a setting out of range, or weights in the optimizer that belong to neither network.
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
        period: int | None = None,
        pull: float = 0.0,
        sampling: Sampling | None = None,
        economy: Economy | None = None,
        micro_batch: int | None = None,
        norm: str = "l2",
        weighting: str = "none",
        autocast: torch.dtype | None = None,
        seed: int = 0,
        on_step: Callable[[Step], None] | None = None,
    ):
        super().__init__()
        counts = dict(steps=steps, samples=samples, micro_batch=micro_batch, period=period)
        for name, value in counts.items():
            if value is None and name in ("micro_batch", "period"):
                continue
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if not 0 <= pull <= 1:
            raise ValueError(f"pull must lie in [0, 1], not {pull!r}")
        if episodic and (period or pull):
            raise ValueError("period and pull belong to a stream: they need episodic=False")
        if norm not in ("l1", "l2"):
            raise ValueError(f"norm must be 'l1' or 'l2', not {norm!r}")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, not {weighting!r}")
        self.model, self.diffusion, self.condition = model.eval(), diffusion.eval(), condition
        self.optimizer, self.steps, self.samples, self.episodic = optimizer, steps, samples, episodic
        self.sampling, self.micro_batch, self.norm, self.autocast = sampling or Sampling(), micro_batch, norm, autocast
        self.weighting, self.period, self.pull, self.calls = weighting, period, pull, 0
        self.found: int | None = None  # pairs in one pass, where it had to be searched
        self.economy = economy or Economy()
        self.generator, self.on_step = torch.Generator().manual_seed(seed), on_step
        self.adapted = [p for group in optimizer.param_groups for p in group["params"]]
        own = {id(p) for p in [*model.parameters(), *diffusion.network.parameters(), *condition.parameters()]}
        if not all(id(p) in own for p in self.adapted):
            raise ValueError("the optimizer holds weights of neither the model nor the diffusion network")
        if optimizer.state:
            raise ValueError("the optimizer has been used before; give a new one")
        self.start = [p.detach().clone() for p in self.adapted]  # only what moves is kept twice
        self.history: list[Step] = []

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Adapt to the image and answer.

        Args:
            image: (N, C, H, W) in [0, 1], usually N = 1; a larger batch shares one set of weights.
            generator: source of (t, ε); a generator seeded by the image makes results independent
                of order. None: the wrapper's own.

        Returns:
            f_θ(x) after the last step.

        Raises:
            ValueError: the image has the wrong shape, dtype or range.
            FloatingPointError: the loss or the answer is not finite. Episodic weights are put back.
        """
        check_image(image)
        self.model.eval(), self.diffusion.eval()  # whatever a caller did to them in between
        try:
            with gradients_only_for(self.adapted, self.model, self.diffusion, self.condition):
                answer = self.algorithm_1(image, generator or self.generator)
            self._forget()
            return answer
        finally:
            if self.episodic:
                self.reset()

    def algorithm_1(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The loop itself, in the paper's symbols."""
        self.history = []
        z0 = self.diffusion.encode(x)
        for step in range(self.steps):
            self.optimizer.zero_grad(set_to_none=True)
            y = self.model(x)
            if self.economy.enough([*(s.output for s in self.history), y.detach()]):
                return y.detach()
            c = self.condition(y)
            if step == 0 or not self.sampling.fixed:
                t, noise = self.sampling.draw(z0, self.samples, self.diffusion.timesteps, generator)
            loss, c_grad = self.feedback(z0, t, noise, c)
            if not loss.isfinite():
                raise FloatingPointError(f"the diffusion loss is {loss.item()}; lower the rate or check the weights")
            if c_grad is not None:
                c.backward(c_grad)  # θ stood still while the samples went by: one backward serves them all
            self.history.append(Step(loss, c.detach(), y.detach()))
            if self.on_step:
                self.on_step(self.history[-1])
            self.optimizer.step()
        with torch.no_grad():
            answer = self.model(x)
        if not answer.isfinite().all():
            raise FloatingPointError("the adapted network's answer is not finite; lower the rate")
        return answer

    def feedback(self, z0: Tensor, t: Tensor, noise: Tensor, c: Tensor) -> tuple[Tensor, Tensor | None]:
        """L and ∂L/∂c as `accumulate` gives them, in passes that fit into memory; where φ moves, its gradient too.

        float16 ends at 6e-8, and the mean over pairs and pixels divides gradients by about a million. So the loss goes
        back multiplied by that many, as a power of two, which changes no digit. Should the largest gradients now be
        too large, half of it is tried.

        Raises:
            torch.OutOfMemoryError: not even one pair fits.
        """
        mean_over = t.numel() * z0[0].numel()
        scale = 2.0 ** round(math.log2(mean_over)) if self.autocast == torch.float16 else 1.0
        while True:
            size = self.micro_batch or t.numel()
            try:
                with torch.autocast(z0.device.type, self.autocast, enabled=self.autocast is not None):
                    weight = self.weight(t)
                    loss, c_grad = accumulate(self.diffusion, z0, t, noise, c, size, self.norm, weight, scale)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                loss = None  # the rest when the error is gone, and with it what it holds in memory
            if loss is None:
                torch.cuda.empty_cache()
                self.micro_batch = self.found = -(-min(size, t.numel()) // 2)
            else:
                found = [g for g in (c_grad, *(p.grad for p in self.adapted)) if g is not None]
                if scale == 1 or not loss.isfinite():
                    return loss, c_grad
                if all(g.isfinite().all() for g in found):
                    torch._foreach_div_(found, scale)
                    return loss, c_grad
                scale /= 2
            self.optimizer.zero_grad(set_to_none=True)

    def weight(self, t: Tensor) -> Tensor:
        """What the loss at each t (N, B) counts."""
        T = self.diffusion.timesteps
        weight = self.sampling.weight(t, T)
        if self.weighting == "none":
            return weight
        most = 5.0 if self.weighting == "min-snr" else float("inf")
        heard = torch.arange(int(self.sampling.low * T), math.ceil(self.sampling.high * T), device=t.device)
        mean = self.diffusion.snr(heard).clamp(max=most).mean()
        return weight * self.diffusion.snr(t).clamp(max=most) / mean

    @torch.no_grad()
    def _forget(self) -> None:
        """What a stream does after each call, beside carrying its weights along."""
        self.calls += 1
        if self.period and self.calls % self.period == 0:
            self.reset()
        elif self.pull:
            torch._foreach_lerp_(self.adapted, self.start, self.pull)

    @torch.no_grad()
    def recall(self, image: Tensor) -> Tensor:
        """f_θ(x) with the weights as they are now, without adapting."""
        check_image(image)
        return self.model(image)

    @torch.no_grad()
    def reset(self) -> None:
        """Put back the weights as they were when this wrapper was made, and forget the optimizer's state."""
        torch._foreach_copy_(self.adapted, self.start)
        self.calls = 0
        self.optimizer.state.clear()
        self.optimizer.zero_grad(set_to_none=True)

    def train(self, mode: bool = True) -> DiffusionTTA:
        """Does nothing: adaptation runs in eval mode (running statistics, no dropout)."""
        return self


def accumulate(
    diffusion: Diffusion,
    z0: Tensor,
    t: Tensor,
    noise: Tensor,
    c: Tensor,
    micro_batch: int | None = None,
    norm: str = "l2",
    weight: Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """The loss over all pairs and its gradient at c; ∂L/∂φ, where φ moves, is left in φ's ``.grad``.

    Args:
        z0: (N, C, h, w); t: (N, B); noise: (N, B, C, h, w); c: (N, ...), as returned by the condition.
        micro_batch: pairs in one pass; each is backed through at once, so memory grows with this alone.
        weight: what each pair counts (N, B); None: 1.
        scale: of all gradients, not of L.

    Returns:
        L, the mean over images and pairs, and ∂L/∂c times the scale (None if c asks for no gradient).
    """
    N, B = t.shape
    leaf = c.detach().requires_grad_(c.requires_grad)
    total = torch.zeros((), device=z0.device)
    for pair in torch.arange(N * B, device=z0.device).split(micro_batch or N * B):
        n = pair // B  # the image each pair belongs to
        losses = diffusion.loss(z0[n], t.flatten()[pair], noise.flatten(0, 1)[pair], leaf[n], norm)  # (M,)
        if weight is not None:
            losses = losses * weight.flatten()[pair]
        if losses.isfinite().all():
            (losses.sum() / (N * B) * scale).backward()
        total += losses.detach().sum() / (N * B)
    return total, leaf.grad


@contextmanager
def gradients_only_for(parameters: Iterable[nn.Parameter], *modules: nn.Module) -> Iterator[None]:
    """Inside, of all the modules' weights only these ask for a gradient; outside, all is as before."""
    flags = {p: p.requires_grad for module in modules for p in module.parameters()}
    moving = set(parameters)
    try:
        for p in flags:
            p.requires_grad_(p in moving)
        with torch.enable_grad():
            yield
    finally:
        for p, flag in flags.items():
            p.requires_grad_(flag)


def check_image(image: Tensor) -> None:
    """Raise ValueError, saying what to do, unless the image is (N, C, H, W), float32, within [0, 1]."""
    if not isinstance(image, Tensor) or image.ndim != 4 or 0 in image.shape:
        found = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"the image must be a tensor of shape (N, C, H, W), not {found}; add image[None]?")
    if image.dtype != torch.float32:
        hint = "use image.float()" if image.is_floating_point() else "divide by 255?"
        raise ValueError(f"the image must be float32, in [0, 1], not {image.dtype}; {hint}")
    if not image.isfinite().all():
        raise ValueError("the image holds NaN or infinite values")
    if image.min() < 0 or image.max() > 1:
        low, high = image.min().item(), image.max().item()
        raise ValueError(f"the image must lie in [0, 1], not [{low:.3g}, {high:.3g}]; scale or clamp it first")
