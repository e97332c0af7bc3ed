"""The gradient of the diffusion loss at the condition, accumulated over micro-batches of (t, ε) pairs.

The task network runs once per step: ∂L/∂c is summed over all pairs, and one backward pass sends the sum through it.
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
    """Return L, the mean over images and pairs, and ∂L/∂c (None if c is fixed); add ∂L/∂φ to an adapted φ's ``.grad``.

    Args:
        z0: (N, C, h, w); t: (N, B); noise: (N, B, C, h, w); c: (N, ...), as returned by the condition.
        micro_batch: pairs in one pass. Each pass is followed by its backward pass, so that memory grows only with
            this number. None: all pairs.
        norm: "l2" or "l1", see ``Diffusion.loss``.
        weight: of each pair (N, B); None: 1.
        scale: multiplies both gradients, but not L.
    """
    N, B = t.shape
    if not len(z0) == len(c) == N:
        raise ValueError(f"z0, t and c must be of the same images, not {len(z0)}, {N} and {len(c)}")
    leaf = c.detach().requires_grad_(c.requires_grad)
    total = torch.zeros((), device=z0.device)
    for pairs in torch.arange(N * B, device=z0.device).split(micro_batch or N * B):
        n, b = pairs // B, pairs % B  # image, and number of the pair
        losses = diffusion.loss(z0[n], t[n, b], noise[n, b], leaf[n], norm)  # (M,)
        if weight is not None:
            losses = losses * weight[n, b]
        (losses.sum() / (N * B) * scale).backward()
        total += losses.detach().sum() / (N * B)
    return total, leaf.grad


def run_in_passes_that_fit(method: Any, pairs: int, attempt: Callable[[int], Any]) -> Any:
    """Return `attempt(size)`, with `size` = min(method.micro_batch, pairs), or `pairs` if ``micro_batch`` is None.

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


def run_with_scaled_gradients(
    elements: int, attempt: Callable[[float], Feedback], parameters: Iterable[torch.nn.Parameter]
) -> Feedback:
    """Call `attempt(scale)` with a large scale and divide all gradients by it: float16 loses numbers below 6e-8.

    The loss is a mean over `elements` numbers, which makes gradients that small; the scale starts near `elements`. It
    is a power of two, so scaling is exact, and is halved if a gradient overflows. Raises FloatingPointError if no scale
    fits. A loss that is not finite is returned.

    Args:
        elements: how many numbers the loss averages.
        parameters: those whose ``.grad`` `attempt` fills, as well as returning ∂L/∂c.
    """
    parameters = list(parameters)
    scale = 2.0 ** round(math.log2(elements))
    while scale >= 1:
        loss, c_grad = attempt(scale)
        gradients = [g for g in (c_grad, *(p.grad for p in parameters)) if g is not None]
        largest = torch.stack(torch._foreach_norm(gradients, math.inf))
        if (largest.isfinite().all() | ~loss.isfinite()).item():  # all in one read
            torch._foreach_div_(gradients, scale)
            return loss, c_grad
        scale /= 2
    raise FloatingPointError("a gradient is not finite in float16 at any scale; use bfloat16 or float32")
