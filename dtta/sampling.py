"""Timesteps and noise: which (t, ε) the loss is averaged over.

The paper draws t uniformly from 1..T and a fresh ε for each (section 3.2). The expectation is the same
under the other schemes here; its estimate has less variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TIMESTEPS = ("uniform", "stratified", "antithetic")
NOISE = ("fresh", "shared")


@dataclass(frozen=True)
class Sampling:
    """How the (t, ε) pairs of one adaptation step are drawn.

    Args:
        timesteps: "uniform": t independent and uniform (the paper); "stratified": one t from each of B
            equal parts of the range; "antithetic": pairs t, t' mirrored at the middle of the range.
        noise: "fresh": one ε for each t (the paper); "shared": one ε for all t of a step.
        low, high: the part of the range that is listened to, as fractions of T. (0, 1) is the paper.
        fixed: draw once for each image and use the same pairs at every step, so that the loss of two
            steps can be compared (common random numbers).
        density: importance sampling: relative numbers, how often t is drawn from each of so many equal parts of the
            range. ``weight`` makes up for it, so that the loss has the same expectation. Empty: evenly.
    """

    timesteps: str = "uniform"
    noise: str = "fresh"
    low: float = 0.0
    high: float = 1.0
    fixed: bool = False
    density: tuple[float, ...] = ()

    def __post_init__(self):
        if self.timesteps not in TIMESTEPS:
            raise ValueError(f"timesteps must be one of {', '.join(TIMESTEPS)}, not {self.timesteps!r}")
        if self.noise not in NOISE:
            raise ValueError(f"noise must be one of {', '.join(NOISE)}, not {self.noise!r}")
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"the range of t must satisfy 0 <= low < high <= 1, not {self.low}, {self.high}")
        if not all(0 < d < float("inf") for d in self.density):
            raise ValueError(f"a density is made of numbers above 0, not {self.density}")

    def draw(self, z0: Tensor, samples: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """B = `samples` pairs for each of N images.

        Returns:
            t (N, B), integers in 0..T-1, and ε (N, B, *z0.shape[1:]), both on z0's device.
        """
        images, device = len(z0), generator.device
        u = torch.rand(images, samples, generator=generator, device=device)
        if self.timesteps == "stratified":  # part k of B covers [k/B, (k+1)/B)
            u = (torch.arange(samples, device=device) + u) / samples
        elif self.timesteps == "antithetic":
            half = u[:, : (samples + 1) // 2]
            u = torch.cat([half, 1 - half], dim=1)[:, :samples]
        u = self._spread(u)
        t = ((self.low + u * (self.high - self.low)) * T).long().clamp(0, T - 1)
        each = 1 if self.noise == "shared" else samples
        noise = torch.randn(images, each, *z0.shape[1:], generator=generator, device=device)
        noise = noise.expand(-1, samples, *[-1] * (z0.ndim - 1))
        return t.to(z0.device), noise.to(z0.device, z0.dtype)

    def weight(self, t: Tensor, T: int) -> Tensor:
        """What the loss at each t counts: 1, or, with a density q, the even density divided by q. Shape of t."""
        if not self.density:
            return torch.ones(t.shape, device=t.device)
        parts, q = len(self.density), torch.tensor(self.density, device=t.device)
        place = ((t + 0.5) / T - self.low) / (self.high - self.low)  # of t's middle within the range
        return (q.mean() / q)[(place * parts).long().clamp(0, parts - 1)]

    def _spread(self, u: Tensor) -> Tensor:
        """Even numbers in [0, 1) -> numbers in [0, 1) of the density: the inverse of its distribution function."""
        if not self.density:
            return u
        parts, q = len(self.density), torch.tensor(self.density, dtype=torch.float64, device=u.device)
        ends = (q / q.sum()).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        part = torch.searchsorted(ends, u.double(), right=True).clamp(max=parts - 1)
        inside = (u.double() - starts[part]) / (ends - starts)[part]
        return ((part + inside.clamp(0, 1 - 1e-9)) / parts).to(u.dtype)
