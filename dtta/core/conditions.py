"""From a task network's output to a diffusion model's condition, differentiably (paper, section 3).

Each class maps the output to c; the gradient of the diffusion loss flows back through it. Softmax and mixing are done
in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class _Mixture(nn.Module):
    """Holds the class embeddings l: a tensor, which gets no gradient, or a function that returns their values."""

    _fixed: Tensor

    def __init__(self, embeddings: Tensor | Callable[[], Tensor]):
        super().__init__()
        self._function = embeddings if callable(embeddings) else None
        self.register_buffer("_fixed", None if callable(embeddings) else embeddings.detach(), persistent=False)

    @property
    def embeddings(self) -> Tensor:
        """l (L, ...), with their current values."""
        return self._fixed if self._function is None else self._function()


class ClassMixture(_Mixture):
    """Classification: c = Σ_j y_j l_j, the class embeddings mixed by the network's belief.

    Args:
        embeddings: l (L, ...): vectors (L, D) for DiT and class-conditional UNets; sequences (L, tokens, D), mixed
            token by token, for text-to-image models. A function that returns them if they are adapted parameters.
    """

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, L) -> c (N, ...)."""
        l = self.embeddings
        if logits.ndim != 2 or logits.shape[1] != len(l):
            raise ValueError(f"{len(l)} class embeddings need logits of shape (N, {len(l)}), not {tuple(logits.shape)}")
        y = logits.float().softmax(dim=1)  # (N, L)
        return (y @ l.float().flatten(1)).unflatten(1, l.shape[1:])


class Tempered(nn.Module):
    """A condition with a temperature: c(y / τ) for logits y.

    A τ above 1 softens the belief in the condition, not the network's output, so that a confident network still gets
    a gradient. τ = 1 is the paper.
    """

    def __init__(self, condition: nn.Module, temperature: float):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"the temperature must be above 0, not {temperature!r}")
        self.condition, self.temperature = condition, temperature

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, L, ...) -> c of the condition."""
        return self.condition(logits / self.temperature)


class PixelMixture(_Mixture):
    """Segmentation: the same mixture at every pixel, c_u = Σ_j y_j^u l_j, a map of embeddings.

    Args:
        embeddings: l (L, D), or a function that returns them; for example the identity matrix, with which c holds the
            probabilities, or a palette (L, 3) for a ControlNet.
    """

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (N, L, H, W) -> c (N, D, H, W)."""
        l = self.embeddings
        L, shape = len(l), tuple(logits.shape)
        if logits.ndim != 4 or shape[1] != L:
            raise ValueError(f"{L} class embeddings need logits of shape (N, {L}, H, W), not {shape}")
        y = logits.float().softmax(dim=1)  # (N, L, H, W)
        return torch.einsum("nlhw,ld->ndhw", y, l.float())


class DepthMap(nn.Module):
    """Depth: the map is the condition, scaled from [near, far] to [-1, 1]; depths outside are clamped.

    Args:
        near, far: the range of depths, in the network's unit.
        scale: "linear"; "log", in which equal steps are equal ratios; or "inverse", linear in
            1/depth (near is 1, far is -1). For a depth ControlNet use ``RelativeDepth``.
    """

    def __init__(self, near: float, far: float, scale: str = "linear"):
        super().__init__()
        if not 0 < near < far:
            raise ValueError(f"depths must satisfy 0 < near < far, not {near}, {far}")
        if scale not in ("linear", "log", "inverse"):
            raise ValueError(f"scale must be 'linear', 'log' or 'inverse', not {scale!r}")
        self.near, self.far, self.scale = near, far, scale

    def forward(self, depth: Tensor) -> Tensor:
        """Depth (N, 1, H, W) or (N, H, W) -> c (N, 1, H, W)."""
        depth = one_channel(depth).float().clamp(self.near, self.far)
        if self.scale == "inverse":
            return 2 * (1 / depth - 1 / self.far) / (1 / self.near - 1 / self.far) - 1
        if self.scale == "log":
            return 2 * (depth / self.near).log() / math.log(self.far / self.near) - 1
        return 2 * (depth - self.near) / (self.far - self.near) - 1


class RelativeDepth(DepthMap):
    """Depth in the form that depth ControlNets were trained on: 1/depth, scaled in each image to [0, 1], in grey.

    The nearest pixel is 1. Doubling all distances gives the same c. Depths are clamped to [near, far] first.
    """

    def __init__(self, near: float, far: float):
        super().__init__(near, far)

    def forward(self, depth: Tensor) -> Tensor:
        """Depth (N, 1, H, W) or (N, H, W) -> c (N, 3, H, W)."""
        inverse = 1 / one_channel(depth).float().clamp(self.near, self.far)
        lowest, highest = inverse.amin((1, 2, 3), keepdim=True), inverse.amax((1, 2, 3), keepdim=True)
        return ((inverse - lowest) / (highest - lowest).clamp(min=1e-6)).expand(-1, 3, -1, -1)


def one_channel(depth: Tensor) -> Tensor:
    """Depth (N, 1, H, W) or (N, H, W) -> (N, 1, H, W). Raises ValueError for any other shape."""
    depth = depth.unsqueeze(1) if depth.ndim == 3 else depth
    if depth.ndim != 4 or depth.shape[1] != 1:
        raise ValueError(f"depth must have shape (N, 1, H, W) or (N, H, W), not {tuple(depth.shape)}")
    return depth
