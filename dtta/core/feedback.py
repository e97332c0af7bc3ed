"""The gradient of the diffusion loss at the condition, accumulated over micro-batches of (t, ε) pairs.

The task network runs once per step: ∂L/∂c is summed over all pairs, and one backward pass sends the sum through it. The
gradient equals the naive loop's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from dtta.core.diffusion import Diffusion

Feedback = tuple[Tensor, Tensor | None]  # L and ∂L/∂c


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
) -> Feedback:
    """Return the mean loss over all pairs and its gradient at c; leave ∂L/∂φ, if φ is adapted, in φ's ``.grad``.

    Args:
        z0: (N, C, h, w); t: (N, B); noise: (N, B, C, h, w); c: (N, ...), as returned by the condition.
        micro_batch: pairs in one pass. Each pass is followed by its backward pass, so that memory grows only with
            this number. None: all pairs.
        norm: "l2" or "l1", see ``Diffusion.loss``.
        weight: of each pair (N, B); None: 1.
        scale: multiplies all gradients, but not L.

    Returns:
        L, the mean over images and pairs, and ∂L/∂c times `scale` (None if c requires no gradient).
    """
    N, B = t.shape
    leaf = c.detach().requires_grad_(c.requires_grad)
    total = torch.zeros((), device=z0.device)
    for pair in torch.arange(N * B, device=z0.device).split(micro_batch or N * B):
        n = pair // B  # the image of each pair
        losses = diffusion.loss(z0[n], t.flatten()[pair], noise.flatten(0, 1)[pair], leaf[n], norm)  # (M,)
        if weight is not None:
            losses = losses * weight.flatten()[pair]
        (losses.sum() / (N * B) * scale).backward()
        total += losses.detach().sum() / (N * B)
    return total, leaf.grad


def in_passes_that_fit(method: Any, pairs: int, attempt: Callable[[int], Any]) -> Any:
    """Return `attempt(size)`, where `size` is ``method.micro_batch``, or `pairs` if that is smaller or None.

    If memory runs out, try again with about half the size, and keep what fits as ``method.micro_batch``. Sizes that
    divide `pairs` are preferred: passes of one size. Raises torch.OutOfMemoryError if size 1 does not fit.
    """
    size = min(method.micro_batch or pairs, pairs)
    while True:
        try:
            return attempt(size)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        torch.cuda.empty_cache()  # after the except block, where the error no longer keeps tensors alive
        half = -(-size // 2)
        size = next((n for n in range(half, half // 2, -1) if pairs % n == 0), half)
        method.micro_batch = size


def with_scaled_gradients(
    elements: int, attempt: Callable[[float], Feedback], parameters: Iterable[torch.nn.Parameter]
) -> Feedback:
    """Call `attempt(scale)` with a large scale and divide all gradients by it: float16 loses numbers below 6e-8.

    The mean divides each gradient by `elements`, so the scale starts near it, a power of two, which changes no digit.
    It is halved if a gradient overflows. Raises FloatingPointError if none fits. A loss that is not finite is returned.

    Args:
        elements: how many numbers the loss averages.
        parameters: those whose ``.grad`` `attempt` fills, as well as returning ∂L/∂c.
    """
    parameters = list(parameters)
    scale = 2.0 ** round(math.log2(elements))
    while scale >= 1:
        loss, c_grad = attempt(scale)
        gradients = [g for g in (c_grad, *(p.grad for p in parameters)) if g is not None]
        largest = torch.stack(torch._foreach_norm(gradients, math.inf)) if gradients else loss.new_zeros(1)
        if (largest.isfinite().all() | ~loss.isfinite()).item():  # all in one read
            torch._foreach_div_(gradients, scale)
            return loss, c_grad
        scale /= 2
    raise FloatingPointError("a gradient is not finite in float16 at any scale; use bfloat16 or float32")
